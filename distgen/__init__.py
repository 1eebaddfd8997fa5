"""distgen: distributed training, evaluation and serving of image generators."""

__version__ = "0.1.0"
