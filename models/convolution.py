"""The square convolution from which all convolutional networks here are built."""

from flax import nnx

from trialbook.models.initializer import KernelInitializer, scaled_normal

# For layers before a ReLU (He et al. 2015), by what a feature reaches.
HE_NORMAL = scaled_normal(2.0, "out")


def convolution(
  inputs: int,
  outputs: int,
  kernel: int,
  stride: int = 1,
  *,
  use_bias: bool = False,
  kernel_init: KernelInitializer = HE_NORMAL,
  rngs: nnx.Rngs,
) -> nnx.Conv:
  """Make a kernel × kernel convolution, padded symmetrically; an odd kernel and stride 1 keep the image's size."""
  pad = (kernel // 2, kernel // 2)
  return nnx.Conv(
    inputs,
    outputs,
    (kernel, kernel),
    strides=stride,
    padding=(pad, pad),
    use_bias=use_bias,
    kernel_init=kernel_init,
    rngs=rngs,
  )


def check_images(model: str, input_shape: tuple[int, ...]) -> None:
  """Raise ValueError if `input_shape` is not (height, width, channels)."""
  if len(input_shape) != 3:
    raise ValueError(f"a {model} needs images of shape (height, width, channels); the inputs have shape {input_shape}")
