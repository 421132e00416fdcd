"""`python -m render_farm` is `render-farm`."""

from render_farm.cli.main import main

if __name__ == "__main__":
    main()
