"""Prints the number of every case the installed Autobahn suite has, one a line, in its order.

Runs in its Python 2.7.
"""

from autobahntestsuite.case import CaseBasename, CaseCategories, Cases, CaseSetname, CaseSubCategories
from autobahntestsuite.caseset import CaseSet

case_set = CaseSet(CaseSetname, CaseBasename, Cases, CaseCategories, CaseSubCategories)
print("\n".join(case_set.parseSpecCases({"cases": ["*"], "exclude-cases": []})))
