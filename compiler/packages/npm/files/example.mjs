// Replays the test stored in the bundle: known inputs, and the outputs they must give.
import { readFile } from "node:fs/promises";
import { load } from "./index.js";

const bundle = new URL("../", import.meta.url);
const { cases } = JSON.parse(await readFile(new URL("selftest/selftest.json", bundle), "utf8"));
const model = await load();
let good = 0;
for (const test of cases) {
  const outputs = model.run(await arrays(test.inputs));
  const expected = Object.entries(await arrays(test.outputs));
  if (expected.every(([name, tensor]) => same(name, outputs[name], tensor, test))) good++;
}
console.log(`${model.name} on ${model.target}: ${good} of ${cases.length} requests answered as stored`);
process.exitCode = good === cases.length ? 0 : 1;

function same(name, got, expected, { absolute, relative }) {
  const dtype = model.outputs.find((port) => port.name === name).dtype;
  const number = dtype === "bfloat16" ? (bits) => floatOf(bits << 16) : dtype === "float16" ? half : Number;
  const stored = dtype === "float16" ? half : Number; // bfloat16 is stored as float32
  return (
    String(got.dims) === String(expected.dims) &&
    expected.data.every((element, i) => {
      const want = stored(element), have = number(got.data[i]);
      if (Object.is(want, have) || want === have) return true;
      return !/^(u?int|bool)/.test(dtype) && Math.abs(have - want) <= absolute + relative * Math.abs(want);
    })
  );
}

function floatOf(bits) {
  return new Float32Array(Int32Array.of(bits).buffer)[0];
}

function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

/** The tensors of an uncompressed .npz file, by name. */
async function arrays(path) {
  const file = await readFile(new URL(path, bundle));
  const found = {};
  let at = file.readUInt32LE(file.lastIndexOf("PK\x05\x06", undefined, "latin1") + 16);
  while (file.readUInt32LE(at) === 0x02014b50) {
    const bytes = file.readUInt32LE(at + 20), length = file.readUInt16LE(at + 28), header = file.readUInt32LE(at + 42);
    const name = file.toString("utf8", at + 46, at + 46 + length).replace(/\.npy$/, "");
    const start = header + 30 + file.readUInt16LE(header + 26) + file.readUInt16LE(header + 28);
    found[name] = array(file.subarray(start, start + bytes));
    at += 46 + length + file.readUInt16LE(at + 30) + file.readUInt16LE(at + 32);
  }
  return found;
}

/** The tensor of a .npy file. */
function array(file) {
  const size = file[6] === 1 ? 2 : 4;
  const start = 8 + size + file.readUIntLE(8, size);
  const head = file.toString("latin1", 8 + size, start);
  const dims = [.../'shape': \(([^)]*)\)/.exec(head)[1].matchAll(/\d+/g)].map(Number);
  const type = /'descr': '[<|](\w+)'/.exec(head)[1];
  const Kind = {
    f4: Float32Array, f8: Float64Array, f2: Uint16Array, i1: Int8Array, i2: Int16Array, i4: Int32Array,
    i8: BigInt64Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, u8: BigUint64Array, b1: Uint8Array,
  }[type];
  const data = file.subarray(start);
  return { data: new Kind(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength)), dims };
}
