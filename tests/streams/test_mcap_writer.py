"""Files as the format's own library reads them, and as it would have written them."""

import tracemalloc
from io import BytesIO

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import NonSeekingReader, make_reader
from mcap.records import Footer
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer

from streams.mcap_writer import McapWriter

EPOCH = 1_700_000_000_000_000_000

messages = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=300),
    ),
    max_size=60,
)


def ours(items, chunk_bytes=2000):
    stream = BytesIO()
    writer = McapWriter(stream, chunk_bytes=chunk_bytes, profile="p", library="l")
    schema = writer.register_schema("S", "jsonschema", b"{}")
    for number in range(3):
        writer.register_channel(f"c{number}", "msgpack", schema if number else 0, {"mark": str(number)})
    for number, (channel, log, publish, sequence, data) in enumerate(items):
        writer.add_message(channel, log_time=log, publish_time=publish, sequence=sequence, data=data)
        if number == 20:
            writer.flush()
            writer.add_metadata("note", {"a": "ä"})
    writer.finish()
    return stream.getvalue()


def the_librarys(items, chunk_bytes=2000):
    stream = BytesIO()
    writer = Writer(stream, chunk_size=chunk_bytes, compression=CompressionType.LZ4, enable_data_crcs=True)
    writer.start("p", "l")
    schema = writer.register_schema("S", "jsonschema", b"{}")
    for number in range(3):
        writer.register_channel(f"c{number}", "msgpack", schema if number else 0, {"mark": str(number)})
    for number, (channel, log, publish, sequence, data) in enumerate(items):
        writer.add_message(channel, log, data, publish, sequence)
        if number == 20:
            writer.flush()
            writer.add_metadata("note", {"a": "ä"})
    writer.finish()
    return stream.getvalue()


@settings(max_examples=60, deadline=None)
@given(items=messages)
def test_every_record_is_the_one_that_the_library_writes(items):
    mine, theirs = ours(items), the_librarys(items)
    places = []
    for content in (mine, theirs):
        records = list(StreamReader(BytesIO(content), emit_chunks=True, validate_crcs=True).records)
        # Empty groups of the summary, which the library mentions, are left out; so what follows stands elsewhere.
        kept = [vars(record) for record in records if not isinstance(record, Footer)]
        places.append([record for record in kept if record.get("group_length") != 0])
    assert places[0] == places[1]
    summaries = [vars(make_reader(BytesIO(content)).get_summary()) for content in (mine, theirs)]
    assert summaries[0] == summaries[1]


@settings(max_examples=30, deadline=None)
@given(items=messages, begin=st.integers(0, 2**64 - 1), span=st.integers(0, 2**63))
def test_the_library_finds_messages_by_their_time(items, begin, span):
    content = ours(items)
    end = min(begin + span, 2**64 - 1)
    found = make_reader(BytesIO(content), validate_crcs=True).iter_messages(start_time=begin, end_time=end)
    expected = sorted(log for _, log, *_ in items if begin <= log < end)
    assert [message.log_time for _, _, message in found] == expected
    everything = NonSeekingReader(BytesIO(content), validate_crcs=True).iter_messages(log_time_order=False)
    assert [(m.channel_id, m.log_time, m.publish_time, m.sequence, m.data) for _, _, m in everything] == items


def test_the_index_of_a_long_recording_takes_little_memory_until_it_is_written():
    """Of an hour of an operating room, with a chunk each 40 ms and a dozen channels, less than 10 MB."""

    class Nowhere:
        def write(self, data):
            return len(data)

        def flush(self):
            pass

    writer = McapWriter(Nowhere(), chunk_bytes=1_000_000, profile="p", library="l")
    channels = [writer.register_channel(f"c{number}", "msgpack", 0, {}) for number in range(12)]
    chunks = 1500
    tracemalloc.start()
    for number in range(chunks):
        at = EPOCH + 40_000_000 * number
        for channel in channels:
            writer.add_message(
                channel, log_time=at + channel * 1_234_567, publish_time=at, sequence=number, data=b"abc"
            )
        writer.flush()
    held, _ = tracemalloc.get_traced_memory()
    writer.finish()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    an_hour = 3600 / 0.04 / chunks
    assert held * an_hour < 10e6
    assert most - held < 1e6  # nor when it is


def test_large_chunks_that_do_not_compress_are_left_as_they_are_and_others_are_not():
    rng = np.random.default_rng(3)
    noise = [rng.bytes(100_000) for _ in range(4)]
    items = [(1, number, number, number, data) for number, data in enumerate([*noise, b"0" * 100_000, *noise])]
    content = ours(items, chunk_bytes=80_000)
    reader = make_reader(BytesIO(content), validate_crcs=True)
    chunks = reader.get_summary().chunk_indexes
    assert {chunk.compression for chunk in chunks[:4]} == {""}
    assert all(chunk.compressed_size == chunk.uncompressed_size for chunk in chunks[:4])
    assert [message.data for _, _, message in reader.iter_messages()] == [data for *_, data in items]
    zeros = ours([(1, 1, 1, 1, b"0" * 100_000)] * 3, chunk_bytes=80_000)
    assert len(zeros) < 10_000
    # After a second of images it is tried again.
    changing = ours([(1, n, n, n, noise[0] if n == 0 else b"0" * 100_000) for n in range(40)], chunk_bytes=80_000)
    kinds = [chunk.compression for chunk in make_reader(BytesIO(changing)).get_summary().chunk_indexes]
    assert kinds == [""] * 25 + ["lz4"] * 15
