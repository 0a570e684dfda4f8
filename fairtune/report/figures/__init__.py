"""One file per figure: tidy tables in, a plotly figure with its caption out."""
