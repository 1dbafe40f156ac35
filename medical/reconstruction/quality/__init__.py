"""What a reconstruction may be trusted for: agreement with the data, what the data do not determine, and the domain.

`consistency` compares an image with its measurement, `null_space` tells the measured part of an image from the rest,
`uncertainty` holds the spread of posterior samples, `card` and `domain` keep a trained model to what it was trained
for, `ring_correlation` finds where two images of one scan disagree.
"""
