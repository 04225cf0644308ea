"""dlcli recipes: the settings files that are included in dlcli."""

from dlcli.cli.arguments import with_format
from dlcli.cli.output import Column, Format, emit
from dlcli.config import recipe


@with_format
def recipes(*, format: Format) -> None:
    """List the recipes for `dlcli train --config recipe:NAME`."""
    found = recipe.recipes()
    rows = [{"recipe": name, "summary": r["summary"], "reaches": r["reaches"]} for name, r in found.items()]
    emit(
        rows,
        [Column("recipe", "recipe", fixed=True), Column("summary", "what it is"), Column("reaches", "what it reaches")],
        format=format,
        document=[{**row, "settings": found[row["recipe"]]["settings"]} for row in rows],
    )
