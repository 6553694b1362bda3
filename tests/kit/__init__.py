"""What the tests of several papers share: profiles, made-up worlds, zoos, figures."""
