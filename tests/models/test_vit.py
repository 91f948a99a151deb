import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_reference as reference
from flax import nnx

from trialbook import models
from trialbook.models.vit import Vit, VitConfig, patches

IMAGES = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
TINY = {"width": 8, "depth": 2, "heads": 2, "patch_size": 2}


def test_the_vit_s_16_has_the_published_parameter_count():
  config = VitConfig(patch_size=16, width=384, depth=12, heads=6)
  model = nnx.eval_shape(lambda: models.build(config, input_shape=(224, 224, 3), num_outputs=1000, rngs=nnx.Rngs(0)))
  assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 22_050_664


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_outputs_are_those_of_numpy(pooling):
  config = VitConfig.model_validate(TINY | {"pooling": pooling})
  model = Vit(config, input_shape=(4, 6, 3), num_outputs=5, rngs=nnx.Rngs(0))
  params = reference.parameters(model)
  squares = [IMAGES[:, i : i + 2, j : j + 2].reshape(2, -1) for i in (0, 2) for j in (0, 2, 4)]
  x = reference.linear(params["embedding"], np.stack(squares, axis=1))
  if pooling == "token":
    x = np.concatenate([np.tile(params["token"], (2, 1, 1)), x], axis=1)
  x = reference.blocks(params, x + params["positions"], config, causal=False, rotary=False)
  expected = reference.linear(params["output"], x[:, 0] if pooling == "token" else x.mean(1))
  outputs = model(jnp.asarray(IMAGES, jnp.float32), train=True)
  np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def test_patches_hold_each_pixel_once():
  image = np.arange(4 * 6 * 3, dtype=np.float32).reshape(1, 4, 6, 3)
  cut = np.asarray(patches(jnp.asarray(image), 2))
  assert cut.shape == (1, 6, 12)
  assert sorted(cut.ravel()) == sorted(image.ravel())


def test_patches_that_do_not_fill_the_image_are_refused_with_those_that_do():
  config = VitConfig(patch_size=4)
  with pytest.raises(ValueError, match=r"^model\.patch_size: 4 does not divide images of 4 × 6; these do: 1, 2$"):
    models.build(config, input_shape=(4, 6, 3), num_outputs=5, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=r"\(height, width, channels\)"):
    models.build(config, input_shape=(4,), num_outputs=5, rngs=nnx.Rngs(0))
