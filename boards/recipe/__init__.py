"""How a board description becomes a flashable image: standard library only, so that it runs on a
fresh machine before anything else is installed."""
