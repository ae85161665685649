"""What has to be unchanged for compiled code to hold, beyond and instead of Dynamo's own guards.

:mod:`methods` watches methods of a model's classes, which Dynamo doesn't guard. :mod:`unchanged` finds the state that
Dynamo's guards read and watches it (:mod:`objects`: how single objects are watched); while nothing has changed,
:mod:`shortcuts` skips the guards and :mod:`straight` calls the compiled code.
"""
