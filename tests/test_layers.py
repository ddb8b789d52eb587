"""The order of the house: what may import what, read from the imports of every file."""

import ast
import re
from pathlib import Path

import pytest

from streamline.registry import families

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "streamline"
# From the lowest to the highest; a file may import what is in its own layer or in one below it.
LAYERS = (
    (
        "errors",
        "sizes",
        "files",
        "cache",
        "fields",
        "registry",
        "sampler",
        "plan",
        "prediction",
        "job",
        "source",
        "pictures",
    ),
    ("hardware", "program", "store"),
    ("weights", "families"),
    ("models",),
    ("cost",),
    ("planning",),
    ("applying",),
    ("running",),
    ("output",),
    ("doctor", "commands"),
    ("lab",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports_of(path: Path, package: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it, as dotted names below the package."""
    here = path.relative_to(package).with_suffix("").parts
    here = here[:-1]  # the package that a relative import starts from
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name.removeprefix("streamline.") for name in names if name.startswith("streamline.")}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "streamline"):
            if node.level:
                base = [*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else ())]
            else:
                base = node.module.split(".")[1:]
            for alias in node.names:
                inner = [*base, alias.name]
                is_module = package.joinpath(*inner).with_suffix(".py").is_file() or package.joinpath(*inner).is_dir()
                found.add(".".join(inner if is_module else base))
    return found - {""}


def graph(package: Path) -> dict[str, set[str]]:
    """Every module below the package, and what it imports; the package itself stands at the top and is left out."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            modules[name] = imports_of(path, package)
    return modules


def wrong_arrows(modules: dict[str, set[str]]) -> list[str]:
    """Imports that point upwards, and modules that have no place in the order."""
    found = []
    for name, targets in modules.items():
        layer = name.split(".")[0]
        for target in targets:
            if RANK[target.split(".")[0]] > RANK[layer]:
                found.append(f"{name} -> {target}")
    return found


def circles(modules: dict[str, set[str]]) -> list[str]:
    """Packages of the first level, and modules, that import each other in a round."""
    packages: dict[str, set[str]] = {}
    for name, targets in modules.items():
        first = name.split(".")[0]
        packages.setdefault(first, set()).update(target.split(".")[0] for target in targets)
    packages = {name: targets - {name} for name, targets in packages.items()}
    return [f"{one} <-> {other}" for graph in (packages, modules) for one, other in _rounds(graph)]


def _rounds(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for target in edges.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return seen

    reach = {name: reached(name) for name in edges}
    return [(a, b) for a in edges for b in edges if a < b and b in reach[a] and a in reach[b]]


def family_words() -> re.Pattern[str]:
    """Names of families, of their classes, components, parts and own job fields, as whole words."""
    names = {"animatediff", "svd", "AnimateDiff", "StableVideoDiffusion", "Stable Video Diffusion"}
    for family in families():
        names |= {kind.__name__ for kind in family.pipelines}
        names |= {network.kind.__name__ for network in family.networks} - {"Decoder", "Encoder"}
        names |= {field.name for field in family.fields} | {half.name for half in family.halves} - {"base"}
        names |= set(family.components) | set(family.denoisers) | {family.autoencoder}
    return re.compile(rf"(?<![\w-])({'|'.join(sorted(map(re.escape, names), key=len, reverse=True))})(?![\w-])")


def knowing(package: Path) -> list[str]:
    """Lines of code outside families/ that know a family; what is explained in words may name one."""
    words, found = family_words(), []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] in ("families", "lab"):  # recipes train the bundled models, benchmarks name what they measure
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
                names = [node.value]
            else:
                names = [getattr(node, name, None) for name in ("id", "attr", "name", "arg")]
            found += [f"{place}:{node.lineno} {name}" for name in names if isinstance(name, str) and words.search(name)]
    return found


def test_what_is_known_of_a_family_stands_in_its_folder():
    assert knowing(PACKAGE) == []


def test_imports_point_down():
    assert wrong_arrows(graph(PACKAGE)) == []


def test_only_the_registry_imports_by_name():
    """What imports upwards by a name in a text is not seen above; the registry does, to find the families that ship."""
    found = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "import_module" in path.read_text("utf-8")]
    assert found == [Path("registry.py")]


def test_nothing_imports_in_a_circle():
    assert circles(graph(PACKAGE)) == []


@pytest.mark.parametrize(
    ("place", "line", "judge"),
    [
        ("plan.py", "from .planning.tuning import tune", wrong_arrows),
        ("program/slicing.py", "from ..families import networks", wrong_arrows),
        ("errors.py", "if TYPE_CHECKING:\n    from .prediction import Candidate", circles),
        ("cost/table.py", "from . import scaling", circles),
        ("planning/planner.py", "def _part(pipe):\n    return pipe.unet", knowing),
        ("output/metrics.py", 'KIND = "svd"', knowing),
    ],
)
def test_a_planted_fault_is_found(tmp_path, place, line, judge):
    """The tests above can fail: an import that points upwards, and a circle, are told."""
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    planted = tmp_path / place
    planted.write_text(f"{planted.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    assert judge(tmp_path) if judge is knowing else judge(graph(tmp_path))
