"""Any network through the lenses: the price, the measurements and a page to read, from Python or by run_all.sh look."""

from lib.look.work import ALL, Failure, Report, Seen, look, price

__all__ = ["ALL", "Failure", "Report", "Seen", "look", "price"]
