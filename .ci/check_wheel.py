"""Check an installed wheel: what is in it, what it pulled in, and that it trains."""

import importlib
import importlib.metadata
import importlib.util
import re
import sys
import zipfile

import jax
import jax.numpy as jnp

import salera_optax

names = zipfile.ZipFile(sys.argv[1]).namelist()
assert "salera_optax/py.typed" in names, names
strays = [n for n in names if not re.match(r"salera_optax(-[^/]+\.dist-info)?/", n)]
assert not strays, f"the wheel holds more than salera_optax: {strays}"

requirements = importlib.metadata.requires("salera_optax") or []
runtime = {re.split(r"[^\w-]", r)[0] for r in requirements if "extra ==" not in r}
assert runtime == {"jax", "optax"}, runtime
for module in ("flax", "chex", "matplotlib", "benchmarks", "tests"):
    assert importlib.util.find_spec(module) is None, f"{module} came with the wheel"
message = "none: it was imported"
try:
    importlib.import_module("salera_optax.flax")
except ImportError as error:
    message = str(error)
assert "salera_optax[flax]" in message, message


def loss(params):
    """A bowl with its bottom at zero."""
    return jnp.sum(params["w"] ** 2)


tx = salera_optax.salera(0.1)
params = {"w": jnp.array([1.0, -2.0])}
state = tx.init(params)
losses = []
for _ in range(3):
    value, grads = jax.value_and_grad(loss)(params)
    params, state = salera_optax.step(tx, grads, state, params, value=value)
    losses.append(float(value))
assert losses == sorted(losses, reverse=True), losses
assert int(salera_optax.metrics(state)["alarms"]) == 0

print(f"{sys.argv[1].rsplit('/', 1)[-1]} trains with jax {jax.__version__} alone: {losses}")
