/* MessagePack of a pose or of pressure samples, read straight into the object that it becomes.
 *
 * Of a stream that is known nearly every message is of one form: the same fields, the same names, numbers within their
 * limits. That form is read here, in a third of the time that a decoder of all forms takes. Every other is left to
 * msgspec, by which each message could be read: what comes out is the same.
 *
 * Format: https://github.com/msgpack/msgpack/blob/master/spec.md */

#include "plain_messages.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

/* TAG: the type's name. SAME: that of `like`. WHOLE: within its limits. LENGTH: finite and not negative, or nothing.
 * TRUTH: yes or no. NUMBERS: so many that are finite, at least one. */
enum kind { TAG, SAME, WHOLE, LENGTH, TRUTH, NUMBERS };

enum { MOST_FIELDS = 16 };

struct field {
    const char *name;
    enum kind kind;
    int optional; /* None where it is not there */
    long long least, most;
    Py_ssize_t offset;
};

struct form {
    const char *tag;
    int count;
    struct field fields[MOST_FIELDS];
};

static PyTypeObject *pressure_type, *pose_type;

static struct form pressure = {
    "PressureSamples",
    12,
    {
        {"type", TAG, 0, 0, 0, -1},
        {"stream", SAME, 0, 0, 0, -1},
        {"sequence", WHOLE, 0, 0, LLONG_MAX, -1},
        {"source_time_ns", WHOLE, 0, 0, LLONG_MAX, -1},
        {"sensor", SAME, 0, 0, 0, -1},
        {"tool", SAME, 0, 0, 0, -1},
        {"sample_period_ns", WHOLE, 0, 1, 0, -1},
        {"values_mmhg", NUMBERS, 0, 1, 4096, -1},
        {"port", SAME, 1, 0, 0, -1},
        {"natural_frequency_hz", LENGTH, 1, 0, 0, -1},
        {"damping", LENGTH, 1, 0, 0, -1},
        {"zero_deviation_mmhg", LENGTH, 1, 0, 0, -1},
    },
};

static struct form pose = {
    "ToolPose",
    9,
    {
        {"type", TAG, 0, 0, 0, -1},
        {"stream", SAME, 0, 0, 0, -1},
        {"sequence", WHOLE, 0, 0, LLONG_MAX, -1},
        {"source_time_ns", WHOLE, 0, 0, LLONG_MAX, -1},
        {"tool", SAME, 0, 0, 0, -1},
        {"position", NUMBERS, 0, 3, 3, -1},
        {"quaternion", NUMBERS, 0, 4, 4, -1},
        {"valid", TRUTH, 0, 0, 0, -1},
        {"error", LENGTH, 1, 0, 0, -1},
    },
};

Py_ssize_t offset_of(PyTypeObject *type, const char *name)
{
    Py_ssize_t offset = -1;
    PyObject *found = PyObject_GetAttrString((PyObject *)type, name);
    if (found && Py_IS_TYPE(found, &PyMemberDescr_Type)) {
        PyMemberDef *member = ((PyMemberDescrObject *)found)->d_member;
        if (member->type == T_OBJECT || member->type == T_OBJECT_EX)
            offset = member->offset;
    }
    Py_XDECREF(found);
    if (offset < 0 && !PyErr_Occurred())
        PyErr_Format(PyExc_TypeError, "%s of %s is no slot", name, type->tp_name);
    return offset;
}

/* A form's offsets. A type that has been given a field more, or is kept track of by the collector, is not read here. */
static int find_form(struct form *form, PyTypeObject *type)
{
    PyObject *names = PyObject_GetAttrString((PyObject *)type, "__struct_fields__");
    Py_ssize_t count = names ? PyObject_Length(names) : -1;
    Py_XDECREF(names);
    if (count < 0)
        return -1;
    if (count != form->count - 1 || PyType_IS_GC(type) || strcmp(type->tp_name, form->tag) != 0) {
        PyErr_Format(PyExc_TypeError, "%s is another type than was known", type->tp_name);
        return -1;
    }
    for (int k = 1; k < form->count; k++)
        if ((form->fields[k].offset = offset_of(type, form->fields[k].name)) < 0)
            return -1;
    return 0;
}

int plain_types(PyTypeObject *pressure_samples, PyTypeObject *tool_pose, long long longest_period)
{
    pressure_type = pressure_samples, pose_type = tool_pose;
    for (int k = 0; k < pressure.count; k++)
        if (strcmp(pressure.fields[k].name, "sample_period_ns") == 0)
            pressure.fields[k].most = longest_period;
    return find_form(&pressure, pressure_type) < 0 || find_form(&pose, pose_type) < 0 ? -1 : 0;
}

/* Bytes that are left of a message. */
struct bytes {
    const unsigned char *at, *end;
};

static int left(const struct bytes *bytes, Py_ssize_t count) { return bytes->end - bytes->at >= count; }

/* A number of so many bytes, the highest first. */
static uint64_t big_endian(struct bytes *bytes, int size)
{
    uint64_t value = 0;
    for (int k = 0; k < size; k++)
        value = value << 8 | bytes->at[k];
    bytes->at += size;
    return value;
}

/* A text and its length; NULL where there is none. */
static const char *text(struct bytes *bytes, Py_ssize_t *length)
{
    if (!left(bytes, 1))
        return NULL;
    unsigned char head = *bytes->at++;
    if ((head & 0xe0) == 0xa0)
        *length = head & 0x1f;
    else if (head == 0xd9 && left(bytes, 1))
        *length = *bytes->at++;
    else
        return NULL;
    if (!left(bytes, *length))
        return NULL;
    bytes->at += *length;
    return (const char *)bytes->at - *length;
}

static int is_text(struct bytes *bytes, const char *wanted, Py_ssize_t wanted_length)
{
    Py_ssize_t length;
    const char *found = text(bytes, &length);
    return found && length == wanted_length && memcmp(found, wanted, (size_t)length) == 0;
}

static int is_nothing(struct bytes *bytes)
{
    if (!left(bytes, 1) || *bytes->at != 0xc0)
        return 0;
    bytes->at++;
    return 1;
}

static PyObject *same(struct bytes *bytes, PyObject *wanted)
{
    if (wanted == Py_None)
        return is_nothing(bytes) ? Py_NewRef(wanted) : NULL;
    if (!wanted || !PyUnicode_CheckExact(wanted) || !PyUnicode_IS_COMPACT_ASCII(wanted))
        return NULL;
    const char *name = (const char *)PyUnicode_1BYTE_DATA(wanted);
    return is_text(bytes, name, PyUnicode_GET_LENGTH(wanted)) ? Py_NewRef(wanted) : NULL;
}

static PyObject *whole(struct bytes *bytes, long long least, long long most)
{
    uint64_t value;
    if (!left(bytes, 1))
        return NULL;
    unsigned char head = *bytes->at++;
    if (head < 0x80)
        value = head;
    else if (head >= 0xcc && head <= 0xcf && left(bytes, 1 << (head - 0xcc)))
        value = big_endian(bytes, 1 << (head - 0xcc));
    else
        return NULL;
    return value <= (uint64_t)most && (long long)value >= least ? PyLong_FromLongLong((long long)value) : NULL;
}

/* A number of 64 bits that is not less than another; NULL also where it is not finite. */
static PyObject *number(struct bytes *bytes, double least)
{
    double value;
    if (!left(bytes, 9) || *bytes->at != 0xcb)
        return NULL;
    bytes->at++;
    uint64_t bits = big_endian(bytes, 8);
    memcpy(&value, &bits, sizeof value);
    return isfinite(value) && value >= least ? PyFloat_FromDouble(value) : NULL;
}

static PyObject *truth(struct bytes *bytes)
{
    if (!left(bytes, 1) || (*bytes->at != 0xc2 && *bytes->at != 0xc3))
        return NULL;
    return Py_NewRef(*bytes->at++ == 0xc3 ? Py_True : Py_False);
}

static PyObject *numbers(struct bytes *bytes, long long least, long long most)
{
    Py_ssize_t count;
    if (!left(bytes, 3))
        return NULL;
    unsigned char head = *bytes->at++;
    if ((head & 0xf0) == 0x90)
        count = head & 0x0f;
    else if (head == 0xdc)
        count = (Py_ssize_t)big_endian(bytes, 2);
    else
        return NULL;
    if (count < least || count > most || !left(bytes, 9 * count))
        return NULL;
    PyObject *all = PyTuple_New(count);
    for (Py_ssize_t k = 0; all && k < count; k++) {
        PyObject *one = number(bytes, -DBL_MAX);
        if (one)
            PyTuple_SET_ITEM(all, k, one);
        else
            Py_CLEAR(all);
    }
    return all;
}

static PyObject *value_of(const struct field *field, PyObject *like, struct bytes *bytes)
{
    switch (field->kind) {
    case SAME:
        return same(bytes, SLOT(like, field->offset));
    case WHOLE:
        return whole(bytes, field->least, field->most);
    case LENGTH:
        return is_nothing(bytes) ? Py_NewRef(Py_None) : number(bytes, 0.0);
    case TRUTH:
        return truth(bytes);
    default:
        return numbers(bytes, field->least, field->most);
    }
}

/* Which field is next: mostly the one after the last; -1 where a name is not known. */
static int field_of(const struct form *form, struct bytes *bytes, int expected)
{
    Py_ssize_t length;
    const char *name = text(bytes, &length);
    for (int k = 0; name && k < form->count; k++) {
        int which = (expected + k) % form->count;
        const char *wanted = form->fields[which].name;
        if (strncmp(name, wanted, (size_t)length) == 0 && wanted[length] == 0)
            return which;
    }
    return -1;
}

/* Fills a new object's slots; whether the bytes were of the form, to their end. */
static int fill(const struct form *form, PyObject *message, PyObject *like, struct bytes *bytes)
{
    if (!left(bytes, 1) || (*bytes->at & 0xf0) != 0x80)
        return 0;
    int count = *bytes->at++ & 0x0f, tagged = 0;
    for (int k = 0, which = -1; k < count; k++) {
        which = field_of(form, bytes, which + 1);
        if (which < 0)
            return 0;
        const struct field *field = form->fields + which;
        if (field->kind == TAG) {
            if (tagged++ || !is_text(bytes, form->tag, (Py_ssize_t)strlen(form->tag)))
                return 0;
            continue;
        }
        if (SLOT(message, field->offset)) /* named twice */
            return 0;
        if (!(SLOT(message, field->offset) = value_of(field, like, bytes)))
            return 0;
    }
    for (int k = 1; k < form->count; k++)
        if (!SLOT(message, form->fields[k].offset)) {
            if (!form->fields[k].optional)
                return 0;
            SLOT(message, form->fields[k].offset) = Py_NewRef(Py_None);
        }
    return tagged && bytes->at == bytes->end;
}

PyObject *plain_message(PyTypeObject *type, PyObject *like, const char *at, const char *end)
{
    const struct form *form = type == pressure_type ? &pressure : type == pose_type ? &pose : NULL;
    if (!form || !like || !Py_IS_TYPE(like, type))
        return NULL;
    PyObject *message = type->tp_alloc(type, 0); /* all slots empty */
    struct bytes bytes = {(const unsigned char *)at, (const unsigned char *)end};
    if (message && !fill(form, message, like, &bytes))
        Py_CLEAR(message);
    return message;
}
