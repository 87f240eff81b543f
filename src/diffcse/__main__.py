"""python -m diffcse, the same as the command; what torchrun starts."""

from diffcse.cli import main

if __name__ == "__main__":
    main()
