"""The ament package around `robotics.ros2`: executables, a launch file, parameters and a Fast DDS profile."""

from setuptools import setup

NAME = "fewstep_ros2"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", ["config/pusht.yaml", "config/fastdds_images.xml"]),
        (f"share/{NAME}/launch", ["launch/policy_launch.py"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="fewstep maintainers",
    maintainer_email="maintainers@fewstep.org",
    description="Diffusion policies in command of a robot",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [f"{node} = {NAME}.nodes:{node}" for node in ("policy_node", "pusht_node", "recorder")]
    },
)
