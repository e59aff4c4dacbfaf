"""Three top-level folders make one package; which modules they hold is read from the tree."""

from setuptools import find_packages, setup

ROOTS = {"isthmus": "compiler", "isthmus.frontends": "frontends", "isthmus.targets": "targets"}

setup(
    package_dir=ROOTS,
    packages=[
        name
        for package, folder in ROOTS.items()
        for name in (package, *(f"{package}.{inner}" for inner in find_packages(folder)))
    ],
)
