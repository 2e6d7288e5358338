"""Words, recordings and packages: how the files of g2p and speaker are made."""

import hashlib
import io
import math
import re
import sys
import tarfile
import wave

import numpy as np
import pytest
import soundfile

import accel
import fxp
import traces
from bench.networks import g2p as script
from fxp import networks, transcripts
from fxp.networks import debian, fetch, g2p, gsm, recordings, speaker
from traces import InputError


def test_pronunciations_are_read_without_stress_and_written_back():
    lines = ["tomato T AH0 M EY1 T OW2", "tomato(2) T AH0 M AA1 T OW2", "tomato(3) T AH1 M EY0 T OW0", "a.b. EY1 B IY1"]
    (word,) = g2p.read(lines)
    assert word.spelling == "tomato"
    assert [[g2p.PHONEMES[label - 1] for label in heard] for heard in word.pronunciations] == [
        ["T", "AH", "M", "EY", "T", "OW"],
        ["T", "AH", "M", "AA", "T", "OW"],
    ]
    assert word.tokens.tolist() == [g2p.LETTERS.index(letter) for letter in "ttoommaattoo"]
    assert [tuple(a) for a in transcripts.alternatives(word.labels)] == list(word.pronunciations)
    assert g2p.read(g2p.write([word]).splitlines()) == [word]


def tone(hertz, seconds, rate, amplitude=0.3):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def test_a_tone_stays_the_same_tone_at_twice_the_rate():
    for samples in (tone(440, 1, 8000), tone(440, 1, 8000)[:7999]):
        doubled = recordings.resample(samples, 8000)
        assert len(doubled) == 2 * len(samples)
        np.testing.assert_allclose(doubled[::2], samples, atol=1e-9)
    np.testing.assert_allclose(recordings.resample(tone(440, 1, 8000), 8000), tone(440, 1, 16000), atol=1e-9)
    assert len(recordings.resample(np.zeros(0), 8000)) == 0
    with pytest.raises(InputError, match="less than 8000"):
        recordings.resample(np.zeros(8), 4000)


@pytest.mark.parametrize("rate", [11025, 16000, 22050, 44100])
def test_a_recording_at_any_rate_keeps_what_the_telephone_passes(rate):
    seconds = 0.5
    heard = recordings.resample(tone(440, seconds, rate) + tone(3900, seconds, rate) + tone(4100, seconds, rate), rate)
    common = math.gcd(rate, 16000)
    assert len(heard) == -(-int(rate * seconds) * common // rate) * 16000 // common  # in whole blocks of both rates
    expected = tone(440, seconds, 16000) + tone(3900, seconds, 16000)
    # A recording ends in the middle of a period, which the spectrum takes for a jump.
    np.testing.assert_allclose(heard[800:7200], expected[800:7200], atol=5e-3)


def test_filters_are_triangles_of_unit_area_that_find_a_tone():
    filters = recordings.mel_filters()
    assert filters.shape == (40, 201)
    assert (filters.max(axis=1) > 0).all()
    # Of the wide filters the bins see the whole triangle.
    np.testing.assert_allclose(filters[20:].sum(axis=1) * 40.0, 1.0, rtol=0.05)
    power = recordings.mel_power(tone(3000, 0.5, 16000))
    assert power.shape == (51, 40)
    assert power.dtype == np.float32
    loudest = int(power[25].argmax())
    assert filters[loudest, 75] == filters[:, 75].max()  # bin 75 is 3000 Hz
    silent = np.concatenate([np.zeros(8000), tone(440, 0.5, 16000)])
    assert 45 < len(recordings.spoken(recordings.mel_power(silent))) < 60
    for amplitude in (1e-3, 0.3):
        level = np.sqrt(np.mean(recordings.levelled(tone(440, 1, 16000, amplitude)) ** 2))
        assert level == pytest.approx(10**-1.5)
    assert not recordings.levelled(np.zeros(8)).any() and len(recordings.levelled(np.zeros(0))) == 0


def wav(samples, rate=8000, channels=1):
    memory = io.BytesIO()
    with wave.open(memory, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return memory.getvalue()


def deb(files):
    """A Debian package: an ar archive with the files in a compressed tar archive."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": memory.getvalue()}
    result = b"!<arch>\n"
    for name, content in parts.items():
        result += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        result += b"\n" * (len(content) % 2)
    return result


def test_recordings_are_read_from_a_package_or_refused(tmp_path):
    path = tmp_path / "some_1_all.deb"
    samples = tone(440, 0.1, 8000)
    path.write_bytes(deb({"usr/b.wav": wav(samples), "usr/a.wav": wav(samples / 2), "usr/note.txt": b"no"}))
    (first, half), (second, full) = debian.files(path, ".wav")
    assert (first, second) == ("usr/a.wav", "usr/b.wav")
    read, rate = recordings.read_wave(full, second)
    assert rate == 8000
    np.testing.assert_allclose(read, samples, atol=1e-4)
    assert np.abs(recordings.read_wave(half, first)[0]).max() < 0.16
    for content in (b"", b"!<arch>\n", path.read_bytes()[:200], path.read_bytes()[:-400]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a Debian package"):
            list(debian.files(path, ".wav"))
    with pytest.raises(InputError, match="not a WAV file"):
        recordings.read_wave(b"RIFF", "x")
    with pytest.raises(InputError, match="2 channels"):
        recordings.read_wave(wav(samples, channels=2), "x")


GSM_DIGEST = "eb0612ab9706425dbf50425e73b0ebb6081cca0c3405631de821859d47730f56"


def test_gsm_is_decoded_as_by_the_reference_or_refused():
    # Parameters at random; the sums are of what libgsm 1.0.22 makes of these frames.
    frames = np.random.default_rng(6).integers(0, 256, (50, gsm.FRAME), np.uint8)
    frames[:, 0] = gsm.MAGIC << 4 | frames[:, 0] & 15
    samples = gsm.decode(frames.tobytes(), "x")
    assert len(samples) == 50 * 160 and np.abs(samples).max() <= 1
    whole = np.rint(samples * 32768).astype(np.int64)
    assert (whole % 8 == 0).all()
    assert hashlib.sha256(whole.astype("<i2").tobytes()).hexdigest() == GSM_DIGEST
    # The decoder goes on from frame to frame: its first half alone gives the same, the second alone does not.
    assert np.array_equal(gsm.decode(frames[:25].tobytes(), "x"), samples[:4000])
    assert not np.array_equal(gsm.decode(frames[25:].tobytes(), "x"), samples[4000:])
    for content in (b"", frames.tobytes()[:-1], bytes(33)):
        with pytest.raises(InputError, match=r"x: not a GSM 06\.10 file"):
            gsm.decode(content, "x")


def test_a_package_that_cannot_be_fetched_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(debian, "POOL", (tmp_path / "nowhere").as_uri())
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = speaker.PACKAGES["asterisk-prompt-it-menardi-wav"]
    assert wanted.file == "asterisk-prompt-it-menardi-wav_1.4.22+mm20110907-3.1_all.deb"
    with pytest.raises(InputError, match=r"cannot be fetched: with apt, there is no apt-get; from file:.*No such file"):
        debian.package(wanted)
    # What the pool gives is taken by its checksum alone.
    pool = tmp_path / "nowhere" / "place"
    pool.mkdir(parents=True)
    some = debian.Package("some", "1", "place", "0" * 64)
    (pool / some.file).write_bytes(b"content")
    with pytest.raises(InputError, match="another checksum"):
        debian.package(some)
    good = debian.Package("some", "1", "place", fetch.checksum(pool / some.file))
    assert debian.package(good).read_bytes() == b"content"
    (pool / some.file).unlink()
    assert debian.package(good).read_bytes() == b"content"


def vorbis(samples, rate=22050):
    memory = io.BytesIO()
    soundfile.write(memory, samples, rate, format="OGG", subtype="VORBIS")
    return memory.getvalue()


def test_vorbis_is_decoded_or_refused(monkeypatch):
    sound = tone(440, 0.5, 22050)
    read, rate = recordings.read_vorbis(vorbis(np.stack([sound, -sound / 2], axis=1)), "x")
    assert rate == 22050 and read.dtype == np.float64 and len(read) == len(sound)
    np.testing.assert_allclose(read, sound / 4, atol=0.02)  # the mean of both channels
    with pytest.raises(InputError, match=r"x: not an Ogg Vorbis file"):
        recordings.read_vorbis(b"OggS", "x")


def test_vorbis_without_its_decoder_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(InputError, match=r"pip install 'fxp-lstm\[speaker\]'"):
        recordings.read_vorbis(b"OggS", "x")


def test_every_speaker_has_files_of_their_own():
    """The names that a speaker's pattern takes in, by examples."""
    stamps, fish = "usr/share/tuxpaint/stamps/", "usr/share/games/fillets-ng/sound/"
    names = {
        f"{stamps}food/bread_desc_fr.ogg": ["PaulK"],
        f"{stamps}animals/birds/hen_desc_fr.ogg": [],
        f"{stamps}animals/birds/hen_desc_ro.ogg": ["Tabbytha"],
        f"{stamps}animals/birds/hen.ogg": [],
        f"{stamps}symbols/math/1_desc_ro.ogg": [],
        f"{stamps}food/bread_desc_ca.ogg": [],
        f"{fish}start/nl/1st-m-hej.ogg": ["the small fish in Czech", "the small fish in Dutch"],
        f"{fish}start/nl/1st-v-ven.ogg": ["the big fish in Czech", "the big fish in Dutch"],
        f"{fish}start/nl/1st-x-ven.ogg": [],
    }
    for name, who in names.items():
        folder = name.split("/")[2]
        ours = [
            s for s in speaker.SPEAKERS if s.package.startswith({"tuxpaint": "tuxpaint", "games": "fillets"}[folder])
        ]
        assert [s.who for s in ours if re.fullmatch(s.files, name)] == who, name
    assert len({(s.package, s.files) for s in speaker.SPEAKERS}) == len({s.who for s in speaker.SPEAKERS}) == 18
    assert {s.package for s in (*speaker.SPEAKERS, speaker.CALIBRATION_ONLY)} == set(speaker.PACKAGES)


def test_recordings_are_split_without_overlap(tmp_path, monkeypatch):
    """Files of made-up packages: 40 recordings and copies of them, one in four to calibrate."""
    generator = np.random.default_rng(2)
    made = {}
    for number in range(40):
        made[f"usr/{number:03}.wav"] = wav(0.1 * generator.normal(size=14000).clip(-3, 3))
        made[f"usr/{number:03}-copy.wav"] = made[f"usr/{number:03}.wav"]
    made["usr/short.wav"] = wav(np.ones(100) * 0.1)
    # The second sends frames of GSM: pulses at random places are as loud as speech.
    for number in range(40):
        frames = generator.integers(0, 256, (200, gsm.FRAME), np.uint8)
        frames[:, 0] = gsm.MAGIC << 4 | frames[:, 0] & 15
        made[f"usr/{number:03}.gsm"] = made[f"usr/{number:03}-copy.gsm"] = frames.tobytes()
    path = tmp_path / "x.deb"
    path.write_bytes(deb(made))
    monkeypatch.setattr(debian, "package", lambda wanted: path)
    everyone = tuple(
        speaker.Speaker(who, "MIT", "fillets-ng-data-cs", f".*[.]{ending}")
        for who, ending in (("one", "wav"), ("another", "gsm"), ("a third", "wav"))
    )
    monkeypatch.setattr(speaker, "SPEAKERS", everyone)
    monkeypatch.setattr(speaker, "CALIBRATION_ONLY", everyone[0])
    largest = generator.uniform(5, 40, 40)
    monkeypatch.setattr(speaker, "weights", lambda: {"lstm.weight_ih_l0": np.stack([largest / 2, -largest])})
    monkeypatch.setattr(speaker, "CALIBRATION", 8)
    monkeypatch.setattr(speaker, "HELD_OUT", 20)
    caches = (speaker._prompts, speaker._recorded, speaker._parts)
    for cached in caches:
        cached.cache_clear()
    try:
        held_out, seen = speaker.held_out(), speaker.calibration()
        parts = [speaker._prompts(one) for one in everyone]
        band, start, end = speaker._parts()
    finally:
        for cached in caches:
            cached.cache_clear()
    assert [tuple(map(len, part)) for part in parts] == [(10, 30)] * 3
    assert (len(held_out), len(seen)) == (60, 32)
    assert held_out.groups.tolist() == np.repeat(range(3), 20).tolist()
    assert seen.groups.tolist() == [*np.repeat(range(3), 8).tolist(), *[0] * 8]
    assert (np.diff(held_out.offsets) == 160).all()
    # The inputs of a band follow on each other and add up to its power, none too wide for its weights.
    assert held_out.features == seen.features == len(band) and sorted(set(band)) == list(range(40))
    follow = band[1:] == band[:-1]
    assert (start[1:][follow] == end[:-1][follow]).all() and (start[np.append(True, ~follow)] == 0).all()
    grid = 2.0**recordings.GRID
    assert all((edge * grid == np.rint(edge * grid)).all() for edge in (start, end))
    assert ((end - start) * largest[band] <= speaker.LARGEST + 40 / grid).all() and (end > start).all()
    closed = np.append(follow, False)
    assert all((x[:, closed] <= (end - start)[closed]).all() and (x >= 0).all() for x in held_out)
    sums = [np.add.reduceat(x.astype(np.float64), np.flatnonzero(np.append(True, ~follow)), axis=1) for x in held_out]
    assert np.array_equal(sums[:20], speaker._evenly(parts[0][1], 20))
    contents = {x.tobytes() for x in held_out}
    assert len(contents) == 40
    assert not contents & {x.tobytes() for x in seen}
    held_out.write(tmp_path / "data.h5")
    assert traces.Data.read(tmp_path / "data.h5").groups.tolist() == held_out.groups.tolist()


@pytest.fixture(scope="module")
def bundled():
    """Files of g2p, made from what is bundled."""
    return {"model": g2p.model(), "data": g2p.held_out(), "calibration": g2p.calibration()}


def test_g2p_is_made_with_the_recorded_content(bundled):
    digests = networks.entry("g2p").digests
    assert {f"{file}.h5": content.digest() for file, content in bundled.items()} == digests
    assert networks.entry("g2p").vocabulary == g2p.LETTERS
    # What every value of the bundle is: a number of float16.
    weights = g2p.weights()
    assert sum(values.size for values in weights.values()) == 2_192_264
    assert all((values == values.astype(np.float16)).all() for values in weights.values())


def test_words_of_g2p_are_where_the_split_puts_them(bundled):
    held_out, seen = g2p.words("test"), g2p.words("calibration")
    assert (len(held_out), len(seen)) == (5047, 2522)
    for part, some in (("test", held_out), ("calibration", seen)):
        assert script.split(some)[part] == some
    assert all(script.steps_needed(heard) <= len(word.tokens) for word in held_out for heard in word.pronunciations)
    parts = script.split([g2p.Word(spelling, ()) for spelling in ("smith", "smith's", "smiths'", "jones", "jones'")])
    assert sorted(map(len, parts.values())) in ([0, 0, 0, 5], [0, 0, 2, 3])
    data, calibration = bundled["data"], bundled["calibration"]
    assert (len(data), len(calibration), data.scope) == (2000, 1000, "sequence")
    assert max(len(transcripts.alternatives(data.sequence_labels(n))) for n in range(2000)) > 1
    assert not (calibration.labels == transcripts.BLANK).any()


def test_g2p_speaks_at_eight_bits_as_in_float(bundled):
    some = range(0, 2000, 50)
    data = bundled["data"]
    sample = traces.Data.of(
        [data.sequence(n) for n in some], [data.sequence_labels(n) for n in some], scope="sequence",
        metric=data.metric,
    )  # fmt: skip
    table = fxp.evaluate(fxp.Network(bundled["model"]), sample, ["float", accel.Static(8)])
    assert 0 < table[0].metric < 0.12 and abs(table[1].metric - table[0].metric) < 0.01
    assert table.metric == "phoneme_error" and table[1].overflows == 0


def test_training_draws_every_word_once_an_epoch():
    words = [g2p.Word(spelling, ((1,), (2, 3))) for spelling in ("a", "b", "ab", "ba", "abc")] * 30
    drawn = script.batches(words, 0)
    assert sorted(word.spelling for batch in drawn for word, _ in batch) == sorted(word.spelling for word in words)
    assert all(len({len(word.spelling) for word, _ in batch}) == 1 for batch in drawn)
    assert {heard for batch in drawn for _, heard in batch} == {(1,), (2, 3)}
    assert script.batches(words, 0) == drawn != script.batches(words, 1)
    # Going on where it was stopped, training meets what it would have met.
    whole = [batch for _, batch in script._stream(words, 0, 12)]
    assert [batch for _, batch in script._stream(words, 5, 12)] == whole[5:] and len(whole) == 12
