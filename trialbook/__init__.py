"""Train supervised models from one device to a TPU pod, and tune them by the Deep Learning Tuning Playbook."""

__version__ = "0.1.0"
