"""Checks that compiled code is still valid, in addition to Dynamo's guards and in place of them.

:mod:`methods` watches the methods of a model's classes, which Dynamo doesn't guard. :mod:`unchanged` finds the state
that Dynamo's guards read, and watches it (:mod:`objects` does so for single objects). While nothing has changed,
:mod:`shortcuts` skips the guards and :mod:`straight` calls the compiled code.
"""
