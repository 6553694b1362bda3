"""What tests of several papers build again and again: profiles, made-up worlds, zoos, figures."""
