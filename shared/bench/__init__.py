"""The honest bench: quality against compute for every method of the core, beside its peers, in one process.

`fewstep bench core` runs it. Every row starts from the same noises and is compared with the exact ODE of the same
network; its compute is counted, not claimed.
"""
