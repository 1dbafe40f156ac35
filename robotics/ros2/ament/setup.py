"""The ament package around `robotics.ros2`: executables, launch files, parameters and a Fast DDS profile."""

from setuptools import setup

NAME = "fewstep_ros2"
NODES = ("policy_node", "pusht_node", "stereo_node", "recorder")

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", ["config/pusht.yaml", "config/stereo.yaml", "config/fastdds_images.xml"]),
        (f"share/{NAME}/launch", ["launch/policy_launch.py", "launch/stereo_launch.py"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="fewstep maintainers",
    maintainer_email="maintainers@fewstep.org",
    description="Diffusion policies in command of a robot, stereo depth",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"{node} = {NAME}.nodes:{node}" for node in NODES]},
)
