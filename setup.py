"""What pyproject.toml cannot say: assets/ is installed as nearl/assets/, and every folder goes with all its files."""

from setuptools import find_namespace_packages, setup

code = find_namespace_packages(include=["nearl*", "app*"], exclude=["*__pycache__*"])
assets = ["nearl.assets", *(f"nearl.assets.{name}" for name in find_namespace_packages("assets"))]
setup(packages=code + assets, package_dir={"nearl.assets": "assets"}, package_data={"": ["*"]})
