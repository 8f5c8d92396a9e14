"""Every recipe of a mergekit checkout through `cognate check`: what parses, and what is said of the rest.

    python tests/compare/mergekit_recipes.py COGNATE CHECKOUT

CHECKOUT is a folder with mergekit's sources, or a bare git repository of it. Taken are the YAML files under
`examples`, and the code blocks marked yaml or yml in its Markdown files. A block that is only a part of a recipe (the
documents show `tokenizer:` alone, say) is checked as an addition to a small linear merge; blocks with an ellipsis for
something left out are listed, and not checked. The script fails if a recipe is refused for any other reason than that it
is for another program or for a method that cognate does not have (one of them a method that mergekit does not have either).
"""

import pathlib
import re
import subprocess
import sys
import tempfile

cognate, checkout = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
REST = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
# Keys that make a block more than a part of a recipe.
WHOLE = re.compile(r"^(merge_method|experts|gate_mode|genome|architecture):", re.MULTILINE)
# What the documents show of other things: a method that their reader is to write, a part of a search's `genome`.
ELSEWHERE = ("unknown merge method `weighted_average`", "unknown key `filters`", "one of mergekit that cognate does not have yet", "this is a recipe of mergekit-")


def git(*arguments):
    return subprocess.run(["git", "-C", checkout, *arguments], check=True, capture_output=True, text=True).stdout


def files():
    """The files that may hold recipes, with their texts."""
    if (checkout / "README.md").exists():
        for path in sorted(checkout.rglob("*")):
            if path.suffix in (".yml", ".yaml", ".md") and path.is_file():
                yield str(path.relative_to(checkout)), path.read_text()
    else:
        for path in git("ls-tree", "-r", "--name-only", "HEAD").splitlines():
            if path.endswith((".yml", ".yaml", ".md")):
                yield path, git("show", f"HEAD:{path}")


def recipes():
    for path, text in files():
        if path.startswith("examples/"):
            yield path, text
        elif path.endswith(".md"):
            for block in re.finditer(r"^[ \t]*```ya?ml\n(.*?)^[ \t]*```", text, re.MULTILINE | re.DOTALL):
                yield f"{path}:{text.count(chr(10), 0, block.start()) + 1}", block.group(1)


def check(recipe):
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "recipe.yml").write_text(recipe)
        run = subprocess.run([cognate, "check", "recipe.yml"], cwd=folder, capture_output=True, text=True)
    return run.returncode, run.stderr


failed = count = 0
print(f"| recipe | result |\n|---|---|")
for name, recipe in recipes():
    count += 1
    if re.search(r"^[^#\n]*\.\.\.\s*$", recipe, re.MULTILINE):
        print(f"| {name} | not checked: something is left out of it |")
        continue
    part = not WHOLE.search(recipe)
    code, said = check(recipe + REST if part else recipe)
    message = " ".join(said.split("\n")[0].split())
    if code == 0:
        result = "parses, as a part of a recipe" if part else "parses"
    else:
        known = code == 2 and any(words in said for words in ELSEWHERE)
        failed += not known
        result = f"{'refused' if known else 'REFUSED'}: {message.removeprefix('error: ')}"
    print(f"| {name} | {result} |")
assert count > 0, "no recipes in this checkout"
sys.exit(f"{failed} recipes are refused" if failed else 0)
