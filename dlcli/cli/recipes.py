"""dlcli recipes: the settings that ship with dlcli."""

from dlcli.cli.arguments import CSV, JSON, MD
from dlcli.cli.output import Column, choose_format, emit
from dlcli.config import recipe


def recipes(json: JSON = False, csv: CSV = False, md: MD = False) -> None:
    """List the recipes: dlcli train --config recipe:NAME."""
    found = recipe.recipes()
    rows = [{"recipe": name, "summary": r["summary"], "reaches": r["reaches"]} for name, r in found.items()]
    emit(
        rows,
        [Column("recipe", "recipe", fixed=True), Column("summary", "what it is"), Column("reaches", "what it reaches")],
        format=choose_format(json=json, csv=csv, md=md),
        document=[{**row, "settings": found[row["recipe"]]["settings"]} for row in rows],
    )
