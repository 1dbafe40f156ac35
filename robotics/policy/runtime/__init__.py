"""A policy in command of a robot: one safe command at every tick, whatever the network and the sensors do.

| module | what |
| --- | --- |
| settings | limits of actions and sensors as data, checked against the policy before the loop starts |
| pacing | ticks on an absolute grid of a monotonic clock |
| buffers | the last samples of each sensor, their ages and faults |
| gates | which chunks are refused, and commands that never leave their limits |
| ladder | what is commanded when something fails, and why |
| inference | the network in a thread of its own |
| loop | one tick, and the loop of ticks |
| statistics | latencies, rungs and faults in bounded memory |
"""
