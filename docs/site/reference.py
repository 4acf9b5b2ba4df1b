"""A hook of mkdocs: the reference of all public names, from their docstrings.

Public are the names in `faithfulness_plugin/__init__.pyi`, and those in the `__all__` of a package inside. They are
read from the source, so that a new name appears by itself. In the navigation "reference/*" stands for these pages.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "faithfulness_plugin"
MAPPED = {"adapters": f"{PACKAGE}.adapters", "benchmarks": f"{PACKAGE}.benchmarks"}
"""Folders that are installed inside the package."""
HEAD = ("metrics", "inspection", "figures", "attribution", "training", "store")
FIRST = (PACKAGE, *(f"{PACKAGE}.{name}" for name in HEAD))
"""Packages at the head of the reference; the others follow in alphabetical order."""
OPTIONS = "    options:\n      heading_level: 2\n"
ABOUT = "    options: {members: false, show_root_heading: false, show_root_toc_entry: false}\n"


def module_name(path: Path) -> str:
    """Return the name by which a file is imported.

    Args:
        path: the file.

    Returns:
        The module, or the package of an `__init__`.
    """
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join([MAPPED.get(parts[0], parts[0]), *parts[1:]])


def listed(source: str) -> list[str]:
    """Read the names in a module's `__all__`, where it is a list in the source.

    Args:
        source: the module's text.

    Returns:
        The names, none where there is no such list.
    """
    for node in ast.parse(source).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "__all__"
            and isinstance(node.value, ast.List)
        ):
            return ast.literal_eval(node.value)
    return []


def public_names() -> dict[str, list[str]]:
    """Find all public names.

    Returns:
        The names by package, without those of packages, which have an entry of their own.
    """
    found = {PACKAGE: listed((ROOT / PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))}
    for folder in (PACKAGE, *MAPPED):
        for path in sorted((ROOT / folder).rglob("__init__.py")):
            if names := listed(path.read_text(encoding="utf-8")):
                found[module_name(path)] = names
    last = {package: package.rpartition(".")[2] for package in found}
    # a package that the root names as its own stands under that shorter name, such as `figures` of benchmarks
    called = {package: f"{PACKAGE}.{name}" if name in found[PACKAGE] else package for package, name in last.items()}
    kept = {
        called[package]: [name for name in names if name not in (*last.values(), "__version__")]
        for package, names in found.items()
    }
    order = sorted(kept, key=lambda package: (FIRST.index(package) if package in FIRST else len(FIRST), package))
    return {package: kept[package] for package in order}


def page_of(package: str) -> str:
    """Return the place of a package's page on the site.

    Args:
        package: its name.

    Returns:
        The place.
    """
    return f"reference/{package.removeprefix(f'{PACKAGE}.')}.md"


def first_line(path: Path) -> str:
    """Read the first sentence of a module's docstring.

    Args:
        path: the module's file.

    Returns:
        The sentence, on one line.
    """
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")


def modules_page() -> str:
    """Write the table of all modules.

    Returns:
        The page.
    """
    lines = ["# All modules", "", "What no page of the reference has, with the first sentence of each docstring.", ""]
    for folder in (PACKAGE, *MAPPED):
        paths = [p for p in sorted((ROOT / folder).rglob("*.py")) if "results" not in p.parts or folder != "benchmarks"]
        lines += [f"## `{folder}/`", "", "| module | what it is |", "| --- | --- |"]
        lines += [f"| `{module_name(path)}` | {first_line(path)} |" for path in paths if first_line(path)]
        lines.append("")
    return "\n".join(lines)


def commands_page() -> str:
    """Write the help of every command.

    Returns:
        The page.
    """
    from typer.testing import CliRunner

    app = importlib.import_module(f"{PACKAGE}.cli.app")
    lines = ["# Commands", "", "| command | what it does |", "| --- | --- |"]
    commands = {name: entry for name, entry in app.COMMANDS.items() if name != "bench"}
    commands |= {f"bench {name}": entry for name, entry in app.BENCH.items()}
    for name, entry in commands.items():
        lines.append(f"| [`faithfulness {name}`](#faithfulness-{name.replace(' ', '-')}) | {entry.about} |")
    lines += ["", "Below is what `--help` says of each. `faithfulness --version` prints the version.", ""]
    for name in commands:
        said = CliRunner().invoke(app.app, [*name.split(), "--help"], prog_name="faithfulness", terminal_width=82)
        if said.exit_code:
            raise RuntimeError(f"faithfulness {name} --help: {said.output}")
        lines += [f"## `faithfulness {name}`", "", "```text", said.output.strip(), "```", ""]
    return "\n".join(lines)


def reference_pages() -> dict[str, str]:
    """Write the pages of the reference, but for the commands.

    Returns:
        The pages by their places on the site.
    """
    names = public_names()
    overview = [
        "# Reference",
        "",
        "All public names, from their docstrings.",
        "",
    ]
    pages = {}
    for package, members in names.items():
        file = page_of(package).removeprefix("reference/")
        shown = ", ".join(f"[`{name}`]({file}#{package}.{name})" for name in members)
        overview += [f"**[`{package}`]({file})**: {shown}", ""]
        body = [f"::: {package}.{name}\n{OPTIONS}" for name in members]
        about = f"::: {package}\n{ABOUT}"
        pages[page_of(package)] = "\n".join([f"# {package.removeprefix(f'{PACKAGE}.')}", "", about, *body])
    overview += ["Every module stands in [a table](modules.md), every command on [a page of its own](commands.md).", ""]
    return {"reference/index.md": "\n".join(overview), **pages, "reference/modules.md": modules_page()}


def on_config(config: Any) -> Any:
    """Complete the navigation.

    Args:
        config: mkdocs's.

    Returns:
        The config.
    """
    pages = ["reference/index.md", "reference/commands.md", *map(page_of, public_names()), "reference/modules.md"]
    for item in config.nav:
        if item.get("Reference") == ["reference/*"]:
            item["Reference"] = pages
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages.

    Args:
        files: those of the site.
        config: mkdocs's.

    Returns:
        All files.
    """
    from mkdocs.structure.files import File

    for place, text in {**reference_pages(), "reference/commands.md": commands_page()}.items():
        files.append(File.generated(config, place, content=text))
    return files
