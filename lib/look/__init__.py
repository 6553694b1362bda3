"""Any network through the lenses: the price, the measurements and a page to read, from Python or by run_all.sh look."""

from lib.lenses.sources import load
from lib.lenses.subject import Subject
from lib.look.report import Report
from lib.look.work import ALL, look, price
from lib.values.data import Data

__all__ = ["ALL", "Data", "Report", "Subject", "load", "look", "price"]
