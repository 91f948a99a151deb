import jax
import numpy as np
import pytest

from trialbook.models.initializer import scaled_normal


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (5, 7)])
@pytest.mark.parametrize(("fan", "mode"), [("in", "fan_in"), ("out", "fan_out")])
def test_values_are_those_of_variance_scaling(shape, fan, mode):
  key = jax.random.key(0)
  expected = jax.nn.initializers.variance_scaling(2.0, mode, "normal")(key, shape)
  np.testing.assert_allclose(scaled_normal(2.0, fan)(key, shape), expected, rtol=1e-6)
