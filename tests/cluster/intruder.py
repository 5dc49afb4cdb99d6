"""A stranger who speaks the link protocol, written from proto/PROTOCOL.md alone: the handshake and records over the libsodium that is installed."""
import ctypes
import hashlib
import hmac
import os
import socket
import struct

_sodium = ctypes.CDLL("libsodium.so.23")
if _sodium.sodium_init() < 0:
    raise OSError("libsodium cannot start")

PREAMBLE = b"starling\1"


def _buffer(n):
    return ctypes.create_string_buffer(n)


def _call(name, *args):
    if getattr(_sodium, name)(*args) != 0:
        raise ValueError(name)


class Identity:
    """An Ed25519 pair, and the X25519 key that follows from it. claims: the public key that it says it has."""

    def __init__(self, seed=None, claims=None):
        public, secret, exchange, exchange_public = _buffer(32), _buffer(64), _buffer(32), _buffer(32)
        _call("crypto_sign_seed_keypair", public, secret, seed or os.urandom(32))
        _call("crypto_sign_ed25519_sk_to_curve25519", exchange, secret)
        _call("crypto_scalarmult_base", exchange_public, exchange)
        self.key, self.exchange, self.exchange_public = claims or public.raw, exchange.raw, exchange_public.raw
        self.secret = secret.raw

    def sign(self, data):
        out = _buffer(64)
        _call("crypto_sign_detached", out, None, data, ctypes.c_ulonglong(len(data)), self.secret)
        return out.raw

    @property
    def id(self):
        return hashlib.blake2b(self.key, digest_size=32).digest()[:16]

    def card(self, addresses=(), incarnation=1, name="intruder", cluster="default"):
        body = pack([self.key, incarnation, 1, False, name, list(addresses)])
        return body + self.sign(b"starling card\0" + cluster.encode() + b"\0" + body)


def identity_of(state_folder):
    with open(os.path.join(state_folder, "node.key")) as f:
        return Identity(bytes.fromhex(f.read().strip()))


def _hkdf(chain, material, outputs):
    key, out = hmac.new(chain, material, hashlib.blake2b).digest(), [b""]
    for i in range(outputs):
        out.append(hmac.new(key, out[-1] + bytes([i + 1]), hashlib.blake2b).digest())
    return out[1:]


class Noise:
    """The dialler's half of Noise_XX or XXpsk0."""

    def __init__(self, identity, psk=None):
        self.identity, self.psk = identity, psk
        name = b"Noise_XXpsk0_25519_ChaChaPoly_BLAKE2b" if psk else b"Noise_XX_25519_ChaChaPoly_BLAKE2b"
        self.hash = self.chain = name.ljust(64, b"\0")
        self.key, self.nonce = None, 0
        self.mix_hash(PREAMBLE)
        self.ephemeral, public = os.urandom(32), _buffer(32)
        _call("crypto_scalarmult_base", public, self.ephemeral)
        self.ephemeral_public = public.raw

    def mix_hash(self, data):
        self.hash = hashlib.blake2b(self.hash + data).digest()

    def mix_key(self, material):
        self.chain, key = _hkdf(self.chain, material, 2)
        self.key, self.nonce = key[:32], 0

    def exchange(self, secret, public):
        shared = _buffer(32)
        _call("crypto_scalarmult", shared, secret, public)
        self.mix_key(shared.raw)

    def _nonce(self):
        self.nonce += 1
        return struct.pack("<IQ", 0, self.nonce - 1)

    def encrypt(self, plain):
        out = plain
        if self.key:
            cipher = _buffer(len(plain) + 16)
            _call("crypto_aead_chacha20poly1305_ietf_encrypt", cipher, None, plain, ctypes.c_ulonglong(len(plain)), self.hash, ctypes.c_ulonglong(64), None,
                  self._nonce(), self.key)
            out = cipher.raw
        self.mix_hash(out)
        return out

    def decrypt(self, cipher):
        plain = _buffer(max(len(cipher) - 16, 1))
        _call("crypto_aead_chacha20poly1305_ietf_decrypt", plain, None, None, cipher, ctypes.c_ulonglong(len(cipher)), self.hash, ctypes.c_ulonglong(64),
              self._nonce(), self.key)
        self.mix_hash(cipher)
        return plain.raw[:len(cipher) - 16]

    def first(self):
        if self.psk:
            self.chain, mixed, key = _hkdf(self.chain, self.psk, 3)
            self.mix_hash(mixed)
            self.key, self.nonce = key[:32], 0
        self.mix_hash(self.ephemeral_public)
        if self.psk:
            self.mix_key(self.ephemeral_public)
        return self.ephemeral_public + self.encrypt(b"")

    def second(self, message):
        """The Ed25519 key of who answered."""
        theirs = message[:32]
        self.mix_hash(theirs)
        if self.psk:
            self.mix_key(theirs)
        self.exchange(self.ephemeral, theirs)
        static = self.decrypt(message[32:80])
        self.exchange(self.ephemeral, static)
        self.their_ephemeral = theirs
        return self.decrypt(message[80:])

    def third(self, purpose=b""):
        out = self.encrypt(self.identity.exchange_public)
        self.exchange(self.identity.exchange, self.their_ephemeral)
        return out + self.encrypt(self.identity.key + purpose)

    def split(self):
        return [k[:32] for k in _hkdf(self.chain, b"", 2)]


def pack(v):
    """msgpack, as far as it is needed here."""
    if v is None or isinstance(v, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[v]
    if isinstance(v, int):
        return bytes([v]) if 0 <= v < 128 else b"\xcf" + struct.pack(">Q", v)
    if isinstance(v, str):
        return b"\xda" + struct.pack(">H", len(v.encode())) + v.encode()
    if isinstance(v, bytes):
        return b"\xc6" + struct.pack(">I", len(v)) + v
    return b"\xdd" + struct.pack(">I", len(v)) + b"".join(map(pack, v))


def envelope(identity, db, version, rows, stamp, chain=bytes(32), table="item", columns=("id", "v"), author=None, flags=0, raw=None, body=None):
    """A batch of rows whose key is the first column, and the chain behind it."""
    streams = [b"".join(pack(row[i]) for row in rows) for i in range(len(columns))]
    group = [0, 0, 1, list(range(1, 1 + len(columns))), len(rows), pack(0) * len(rows), pack(1)] + streams
    plain = pack([]) + pack([table] + list(columns)) + pack(None) + pack(1) + pack(group)
    body = plain if body is None else body
    data = pack([1, flags, author or identity.id, 0, version, db, chain[:8], identity.key if version == 1 else None, [], [], 0, stamp, len(rows),
                 len(plain) if raw is None else raw, body])
    data = b"\x9f" + data[5:]  # 15 fields: the shortest form
    after = hashlib.blake2b(chain + data, digest_size=32).digest()
    return data + identity.sign(after), after


def zip_bomb(window_log=14, blocks=2500):
    """A zstd frame of blocks that repeat one byte: some KiB that become blocks times 16 KiB, or more with a larger window."""
    size = min(1 << window_log, 128 << 10)
    return b"\x28\xb5\x2f\xfd\0" + bytes([(window_log - 10) << 3]) + ((size << 3 | 2).to_bytes(3, "little") + b"\0") * blocks


class Refused(Exception):
    pass


class Link:
    """A link with a node: up to the third message on construction."""

    def __init__(self, port, identity=None, psk=None, timeout=20.0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        try:
            self._shake(Noise(identity or Identity(), psk))
        except BaseException:
            self.socket.close()
            raise

    def _shake(self, noise):
        self.send_frame(noise.first(), PREAMBLE)
        if self.exactly(9) != PREAMBLE:
            raise ValueError("no preamble")
        self.peer = noise.second(self.take_frame())
        self.send_frame(noise.third())
        keys = noise.split()
        self.push, self.pull = _buffer(64), _buffer(64)
        _call("crypto_secretstream_xchacha20poly1305_init_pull", self.push, noise.hash[:24], keys[0])
        _call("crypto_secretstream_xchacha20poly1305_init_pull", self.pull, noise.hash[32:56], keys[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def exactly(self, n):
        out = b""
        while len(out) < n:
            more = self.socket.recv(n - len(out))
            if not more:
                raise EOFError
            out += more
        return out

    def send_frame(self, body, before=b""):
        self.socket.sendall(before + struct.pack(">BH", 1, len(body)) + body)

    def take_frame(self):
        kind, n = struct.unpack(">BH", self.exactly(3))
        body = self.exactly(n)
        if kind == 2:
            raise Refused(body[0])
        return body

    def seal(self, plain, kind=0):
        """kind 0: bytes of the stream as they are. None: of a content link, whose records have no kind."""
        plain = (b"" if kind is None else bytes([kind])) + plain
        out = _buffer(len(plain) + 17)
        _call("crypto_secretstream_xchacha20poly1305_push", self.push, out, None, plain, ctypes.c_ulonglong(len(plain)), None, ctypes.c_ulonglong(0),
              ctypes.c_ubyte(0))
        return struct.pack(">H", len(out.raw)) + out.raw

    def send(self, plain, kind=0):
        self.socket.sendall(self.seal(plain, kind))

    def take(self):
        """The next record's plain text, with its kind in front: what a node says first is not compressed."""
        cipher = self.exactly(struct.unpack(">H", self.exactly(2))[0])
        plain, tag = _buffer(len(cipher)), _buffer(1)
        _call("crypto_secretstream_xchacha20poly1305_pull", self.pull, plain, None, tag, cipher, ctypes.c_ulonglong(len(cipher)), None, ctypes.c_ulonglong(0))
        return plain.raw[:len(cipher) - 17]

    def ended(self):
        """Reads until the node closes; what it said meanwhile."""
        said = b""
        try:
            while True:
                said += self.take()
        except (EOFError, ConnectionError):
            return said

    # ---- as a member

    def frame(self, *fields):
        body = pack(list(fields))
        data = struct.pack(">I", len(body)) + body
        for at in range(0, len(data), 16000):
            self.send(data[at:at + 16000])

    def hello(self, identity, wall_ms, name="intruder", dbs=(), incarnation=1):
        self.frame(1, "starling", 1, "default", name, ":1", incarnation, wall_ms, 1, 0, "127.0.0.1", identity.card(incarnation=incarnation), list(dbs))

    def batch(self, data):
        for at in range(0, len(data), 60000):
            self.frame(8, 0, len(data), at, data[at:at + 60000])

    def full_vector(self, db, entries=()):
        """So that batches of it are exchanged."""
        self.frame(5, db, 1, 0, 0, bytes(16), list(entries))
