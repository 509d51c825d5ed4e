"""`python -m ntkcli` is `ntksel`."""

from ntkcli.app import main

if __name__ == "__main__":
    main()
