/* The two loops that every frame passes, without the interpreter: from the socket to bytes, and from a frame to an
 * event where there is nothing to notice. `streams.compiled` builds this and hands in what it needs; `Subscriber` and
 * `Intake` hold the same loops in Python, which do it where this cannot be built, and which say why each step is. */

#include "plain_messages.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>

/* Receiving: ZeroMQ's own functions, of the library that pyzmq has loaded, by their addresses. ------------------- */

typedef union {
    unsigned char bytes[64];
    void *aligned;
} zmq_msg_t; /* as zmq.h declares it, from version 4.1 on */

static int (*msg_init)(zmq_msg_t *);
static int (*msg_recv)(zmq_msg_t *, void *, int);
static int (*msg_close)(zmq_msg_t *);
static void *(*msg_data)(zmq_msg_t *);
static size_t (*msg_size)(const zmq_msg_t *);
static const char *(*msg_gets)(const zmq_msg_t *, const char *);
static int (*last_error)(void);
static long long epoch_ns; /* of the session's clock, which is the monotonic one and this */

enum { DONTWAIT = 1, MOST = 64 };

static PyObject *use(PyObject *self, PyObject *arguments)
{
    unsigned long long at[7];
    (void)self;
    if (!PyArg_ParseTuple(arguments, "LKKKKKKK", &epoch_ns, at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6))
        return NULL;
    msg_init = (int (*)(zmq_msg_t *))at[0];
    msg_recv = (int (*)(zmq_msg_t *, void *, int))at[1];
    msg_close = (int (*)(zmq_msg_t *))at[2];
    msg_data = (void *(*)(zmq_msg_t *))at[3];
    msg_size = (size_t (*)(const zmq_msg_t *))at[4];
    msg_gets = (const char *(*)(const zmq_msg_t *, const char *))at[5];
    last_error = (int (*)(void))at[6];
    Py_RETURN_NONE;
}

static PyObject *sender_of(zmq_msg_t *message)
{
    const char *name = msg_gets(message, "User-Id");
    return PyUnicode_DecodeUTF8(name ? name : "", name ? (Py_ssize_t)strlen(name) : 0, "replace");
}

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000000 + now.tv_nsec + epoch_ns;
}

/* Parts of messages that are there, at most so many: when each was taken; their bytes; who sent each, or None where
 * nobody asks; and ZeroMQ's error that ended the burst, or 0. Other threads run while the socket is asked. */
static PyObject *receive(PyObject *self, PyObject *arguments)
{
    unsigned long long socket;
    int most, named, count = 0, error = 0;
    zmq_msg_t messages[MOST];
    long long times_ns[MOST];
    (void)self;
    if (!PyArg_ParseTuple(arguments, "Kip", &socket, &most, &named))
        return NULL;
    if (!msg_recv) {
        PyErr_SetString(PyExc_RuntimeError, "ZeroMQ's functions were not handed in");
        return NULL;
    }
    if (most > MOST)
        most = MOST;
    Py_BEGIN_ALLOW_THREADS
    while (count < most) {
        msg_init(messages + count);
        if (msg_recv(messages + count, (void *)socket, DONTWAIT) < 0) {
            error = last_error();
            msg_close(messages + count);
            break;
        }
        times_ns[count++] = now_ns();
    }
    Py_END_ALLOW_THREADS
    PyObject *stamps = PyList_New(count), *taken = PyList_New(count);
    PyObject *senders = named ? PyList_New(count) : Py_NewRef(Py_None);
    int failed = !stamps || !taken || !senders;
    for (int k = 0; k < count; k++) {
        if (!failed) {
            PyObject *stamp = PyLong_FromLongLong(times_ns[k]);
            PyObject *data = PyBytes_FromStringAndSize(msg_data(messages + k), (Py_ssize_t)msg_size(messages + k));
            PyObject *sender = data && named ? sender_of(messages + k) : NULL;
            failed = !stamp || !data || (named && !sender);
            if (stamp)
                PyList_SET_ITEM(stamps, k, stamp);
            if (data)
                PyList_SET_ITEM(taken, k, data);
            if (sender)
                PyList_SET_ITEM(senders, k, sender);
        }
        msg_close(messages + k);
    }
    if (failed) {
        Py_XDECREF(stamps);
        Py_XDECREF(taken);
        Py_XDECREF(senders);
        return NULL;
    }
    return Py_BuildValue("NNNi", stamps, taken, senders, error == EINTR ? 0 : error);
}

/* Taking: types, and where their objects hold what is read of them. ----------------------------------------------- */

static PyTypeObject *frame_type, *event_type, *source_type, *clock_type, *pressure_type, *pose_type;
static PyObject *decode, *unreadable, *minus_one;
static Py_ssize_t longest;
static double least_norm, largest_norm;

#define SLOTS(X)                                                                                                       \
    X(frame, data) X(frame, receive_time_ns) X(frame, sender)                                                          \
    X(source, stream) X(source, kind) X(source, sender) X(source, tool) X(source, like) X(source, clock)               \
    X(source, beat) X(source, waiting) X(clock, least_ns) X(clock, most_ns) X(clock, until_ns)                                         \
    X(pressure, stream) X(pressure, source_time_ns) X(pressure, sample_period_ns) X(pressure, values_mmhg)             \
    X(pose, stream) X(pose, source_time_ns) X(pose, tool) X(pose, quaternion)

#define DECLARE(type, name) static Py_ssize_t type##_##name;
SLOTS(DECLARE)

static PyObject *prepare(PyObject *self, PyObject *arguments)
{
    (void)self;
    long long longest_period;
    if (!PyArg_ParseTuple(arguments, "O!O!O!O!O!O!OOnddL", &PyType_Type, &frame_type, &PyType_Type, &event_type,
                          &PyType_Type, &source_type, &PyType_Type, &clock_type, &PyType_Type, &pressure_type,
                          &PyType_Type, &pose_type, &decode, &unreadable, &longest, &least_norm, &largest_norm,
                          &longest_period))
        return NULL;
    Py_INCREF(frame_type), Py_INCREF(event_type), Py_INCREF(source_type), Py_INCREF(clock_type);
    Py_INCREF(pressure_type), Py_INCREF(pose_type), Py_INCREF(decode), Py_INCREF(unreadable);
#define FIND(type, name)                                                                                               \
    if ((type##_##name = offset_of(type##_type, #name)) < 0)                                                           \
        return NULL;
    SLOTS(FIND)
    if (plain_types(pressure_type, pose_type, longest_period) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Whether an object is a whole number of 64 bits, and which. */
static int number(PyObject *object, long long *value)
{
    int overflow = 0;
    if (!object || !PyLong_CheckExact(object))
        return 0;
    *value = PyLong_AsLongLongAndOverflow(object, &overflow);
    return !overflow;
}

/* Whether two names are equal, or both None. */
static int same(PyObject *one, PyObject *other)
{
    if (one == other)
        return 1;
    return one && other && PyUnicode_CheckExact(one) && PyUnicode_CheckExact(other) &&
           PyUnicode_Compare(one, other) == 0;
}

/* Whether a quaternion's norm is surely within its bounds; where it is close to one, the long way judges. */
static int turns_only(PyObject *quaternion)
{
    double square = 0.0;
    if (!quaternion || !PyTuple_CheckExact(quaternion))
        return 0;
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(quaternion); k++) {
        PyObject *value = PyTuple_GET_ITEM(quaternion, k);
        if (!PyFloat_CheckExact(value))
            return 0;
        square += PyFloat_AS_DOUBLE(value) * PyFloat_AS_DOUBLE(value);
    }
    double norm = sqrt(square);
    return norm > least_norm + 1e-12 && norm < largest_norm - 1e-12;
}

/* Whether a message is one more of its stream with nothing to notice, and when it was complete by its own clock. */
static int one_more(PyObject *message, PyObject *source, long long *time_ns)
{
    if (Py_IS_TYPE(message, pressure_type)) {
        PyObject *values = SLOT(message, pressure_values_mmhg);
        long long span;
        return SLOT(source, source_kind) == (PyObject *)pressure_type &&
               same(SLOT(message, pressure_stream), SLOT(source, source_stream)) &&
               number(SLOT(message, pressure_source_time_ns), time_ns) &&
               number(SLOT(message, pressure_sample_period_ns), &span) && values && PyTuple_CheckExact(values) &&
               !__builtin_mul_overflow(span, (long long)PyTuple_GET_SIZE(values) - 1, &span) &&
               !__builtin_add_overflow(*time_ns, span, time_ns);
    }
    return Py_IS_TYPE(message, pose_type) && same(SLOT(message, pose_stream), SLOT(source, source_stream)) &&
           same(SLOT(message, pose_tool), SLOT(source, source_tool)) &&
           number(SLOT(message, pose_source_time_ns), time_ns) && turns_only(SLOT(message, pose_quaternion));
}

/* When a message was measured, when it arrived, and its event: a new tuple, or NULL with an exception. */
static PyObject *turn_of(PyObject *frame, PyObject *message, PyObject *clock, long long time_ns, PyObject *timed)
{
    long long least, most, until, received_ns, delay;
    PyObject *received = SLOT(frame, frame_receive_time_ns);
    PyObject *event = NULL, *turn = NULL, *time = PyLong_FromLongLong(time_ns);
    if (!time)
        return NULL;
    if (number(received, &received_ns) && number(SLOT(clock, clock_least_ns), &least) &&
        number(SLOT(clock, clock_most_ns), &most) && number(SLOT(clock, clock_until_ns), &until) &&
        !__builtin_sub_overflow(received_ns, time_ns, &delay) && least <= delay && delay <= most &&
        received_ns < until) {
        PyObject *fields[] = {minus_one, received, SLOT(frame, frame_data), message};
        event = PyObject_Vectorcall((PyObject *)event_type, fields, 4, NULL);
    } else {
        PyObject *both = PyObject_CallFunctionObjArgs(timed, message, clock, time, frame, NULL);
        if (both) {
            event = Py_NewRef(PyTuple_GET_ITEM(both, 0));
            Py_SETREF(time, Py_NewRef(PyTuple_GET_ITEM(both, 1)));
            Py_DECREF(both);
        }
    }
    if (event)
        turn = PyTuple_Pack(3, time, received, event);
    Py_XDECREF(event);
    Py_DECREF(time);
    return turn;
}

/* Appends a message's turn, and notes at its stream that it came; 0, or -1 with an exception. */
static int append(PyObject *frame, PyObject *message, PyObject *source, long long time_ns, PyObject *turns,
                  PyObject *timed)
{
    long long waiting;
    PyObject *beat = Py_NewRef(SLOT(source, source_beat)), *clock = Py_NewRef(SLOT(source, source_clock));
    PyObject *turn = turn_of(frame, message, clock, time_ns, timed);
    PyObject *nothing = turn ? PyObject_CallOneArg(beat, SLOT(frame, frame_receive_time_ns)) : NULL;
    PyObject *more = NULL;
    if (nothing && number(SLOT(source, source_waiting), &waiting))
        more = PyLong_FromLongLong(waiting + 1);
    int done = -1;
    if (more) {
        done = PyList_Append(turns, turn);
        Py_XSETREF(SLOT(source, source_waiting), more);
    } else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "messages that wait are counted");
    Py_XDECREF(nothing);
    Py_XDECREF(turn);
    Py_DECREF(clock);
    Py_DECREF(beat);
    return done;
}

/* The message in bytes, by the stream that it is of; NULL with an exception where it is none. */
static PyObject *message_of(PyObject *source, const char *at, const char *end)
{
    PyObject *like = SLOT(source, source_like);
    PyObject *message = like ? plain_message(Py_TYPE(like), like, at, end) : NULL;
    if (message || PyErr_Occurred())
        return message;
    PyObject *payload = PyBytes_FromStringAndSize(at, end - at);
    if (payload) {
        message = PyObject_CallOneArg(decode, payload);
        Py_DECREF(payload);
    }
    return message;
}

/* One frame by the short way: 1 where it was taken, 0 where it is to go the long way, -1 with an exception. */
static int take_one(PyObject *frame, PyObject *quick, PyObject *turns, PyObject *timed)
{
    if (!Py_IS_TYPE(frame, frame_type))
        return 0;
    PyObject *data = SLOT(frame, frame_data);
    if (!data || !SLOT(frame, frame_receive_time_ns) || !PyBytes_CheckExact(data) || PyBytes_GET_SIZE(data) > longest)
        return 0;
    const char *begin = PyBytes_AS_STRING(data), *end = begin + PyBytes_GET_SIZE(data);
    const char *zero = memchr(begin, 0, (size_t)(end - begin));
    if (!zero)
        return 0;
    PyObject *name = PyBytes_FromStringAndSize(begin, zero - begin);
    if (!name)
        return -1;
    PyObject *source = PyDict_GetItemWithError(quick, name);
    Py_DECREF(name);
    if (!source)
        return PyErr_Occurred() ? -1 : 0;
    if (!Py_IS_TYPE(source, source_type) || !same(SLOT(source, source_sender), SLOT(frame, frame_sender)) ||
        !SLOT(source, source_beat) || !SLOT(source, source_clock) ||
        !Py_IS_TYPE(SLOT(source, source_clock), clock_type))
        return 0;
    Py_INCREF(source);
    PyObject *message = message_of(source, zero + 1, end);
    int done = 0;
    long long time_ns;
    if (!message) {
        if (PyErr_ExceptionMatches(unreadable))
            PyErr_Clear();
        else
            done = -1;
    } else if (one_more(message, source, &time_ns))
        done = append(frame, message, source, time_ns, turns, timed) < 0 ? -1 : 1;
    Py_XDECREF(message);
    Py_DECREF(source);
    return done;
}

/* Takes frames of a list from one number to before another: by the short way to `turns`, or by calling `slowly`. */
static PyObject *take(PyObject *self, PyObject *arguments)
{
    PyObject *frames, *quick, *at_once, *turns, *slowly, *timed;
    Py_ssize_t begin, end;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OnnO!OO!OO", &frames, &begin, &end, &PyDict_Type, &quick, &at_once, &PyList_Type,
                          &turns, &slowly, &timed))
        return NULL;
    frames = PySequence_Fast(frames, "frames are a sequence");
    if (!frames)
        return NULL;
    int done = 0;
    for (Py_ssize_t k = begin; done >= 0 && k < end && k < PySequence_Fast_GET_SIZE(frames); k++) {
        PyObject *frame = Py_NewRef(PySequence_Fast_GET_ITEM(frames, k));
        done = take_one(frame, quick, turns, timed);
        if (done == 0) {
            PyObject *nothing = PyObject_CallFunctionObjArgs(slowly, frame, at_once, turns, NULL);
            if (!nothing)
                done = -1;
            Py_XDECREF(nothing);
        }
        Py_DECREF(frame);
    }
    Py_DECREF(frames);
    if (done < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"use", use, METH_VARARGS, NULL},
    {"receive", receive, METH_VARARGS, NULL},
    {"prepare", prepare, METH_VARARGS, NULL},
    {"take", take, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "short_way", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_short_way(void)
{
    minus_one = PyLong_FromLong(-1);
    return minus_one ? PyModule_Create(&definition) : NULL;
}
