/* MessagePack of a pose or of pressure samples, read straight into the object that it becomes. */

#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define SLOT(object, offset) (*(PyObject **)((char *)(object) + (offset)))

/* Where objects of a type hold an attribute, in bytes; -1 with an exception where they hold it otherwise. */
Py_ssize_t offset_of(PyTypeObject *type, const char *name);

/* Finds out where objects of both types hold what is read, and that they have nothing else; 0, or -1 with an
 * exception. The period is in ns. */
int plain_types(PyTypeObject *pressure, PyTypeObject *pose, long long longest_period);

/* The message that bytes hold; NULL without an exception where they are not the plainest form of one whose names are
 * those of another, `like`: those are for a decoder that knows all forms, and that can say what is wrong. */
PyObject *plain_message(PyTypeObject *type, PyObject *like, const char *at, const char *end);
