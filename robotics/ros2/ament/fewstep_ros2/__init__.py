"""Executables of fewstep's ROS 2 nodes."""
