"""Planted faults: each must fail a fast test, so that the same fault made by mistake does, too.

``faults.py`` is the list: a file, a piece of its text, what stands there instead, and the tests
that must notice. ``test_mutations.py`` plants one after the other into a copy of the package
(``make mutations``). Whoever rewrites a line that is listed rewrites its fault, too; a fast test
says so.
"""
