"""An install puts one name on the machine, `autoshard`, and leaves nothing out."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import autoshard

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "autoshard": ROOT / "autoshard",
    "autoshard.cost": ROOT / "cost",
    "autoshard.search": ROOT / "search",
}
NOT_SOURCE = shutil.ignore_patterns(
    *(".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist"),
    *("tests", "bench", "examples"),
)


def python_files() -> set[str]:
    """Where every Python file of the project lies in an install."""
    return {
        "/".join([*package.split("."), *file.relative_to(folder).parts])
        for package, folder in FOLDERS.items()
        for file in folder.rglob("*.py")
        if not (package == "autoshard" and file.relative_to(folder).parts[0] in ("cost", "search"))
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the build leaves nothing in the tree."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, place / "source", symlinks=True, ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), "source"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = place.glob("*.whl")
    return built


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert names == {"autoshard", f"autoshard-{autoshard.__version__}.dist-info"}


def test_the_wheel_holds_every_file_once(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    assert {name for name in names if name.endswith(".py")} == python_files()
    assert "autoshard/py.typed" in names


def test_the_installed_packages_are_found_and_leak_no_name(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys, importlib.util as u; sys.path.insert(0, 'site');"
        "import autoshard.cost, autoshard.search, autoshard.cli;"
        "assert 'site' in autoshard.cost.__file__;"
        "sys.exit(bool(u.find_spec('cost') or u.find_spec('search')))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_command_is_installed(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "autoshard = autoshard.cli:main" in archive.read(entry_points).decode()


def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = settings["tool"]["setuptools"]["packages"]
    found = {
        name.rpartition("/")[0].replace("/", ".") for name in python_files() if name.endswith("/__init__.py")
    }
    assert sorted(found) == listed


def test_every_folder_with_code_is_a_package() -> None:
    folders = {name.rpartition("/")[0] for name in python_files()}
    packages = {name.rpartition("/")[0] for name in python_files() if name.endswith("/__init__.py")}
    assert folders == packages


def test_the_links_for_static_checkers_stand() -> None:
    for name in ("cost", "search"):
        link = ROOT / "autoshard" / name
        assert link.is_symlink() and link.resolve() == (ROOT / name).resolve()


def test_no_module_hides_a_public_name() -> None:
    modules = {path.stem for path in (ROOT / "autoshard").iterdir()}
    assert modules.isdisjoint(autoshard._HOME)
