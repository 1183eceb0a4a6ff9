"""Print the lowest versions that pyproject.toml allows the package and its Flax, for pip."""

import pathlib
import tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
requirements = project["dependencies"] + project["optional-dependencies"]["flax"]
print(*(requirement.replace(">=", "==") for requirement in requirements))
