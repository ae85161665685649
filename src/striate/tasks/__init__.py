"""What differs between tasks: how results are measured, recorded and written, for objects and for class maps.

:mod:`striate.tasks.objects` measures detections, :mod:`striate.tasks.maps` class maps, :mod:`striate.tasks.writing` is
predictions as files.
"""
