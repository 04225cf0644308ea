"""Pictures of runs: numbers -> lines and grids -> SVG, HTML, CSV or characters."""
