// Runs the compiled model that this package holds, in Node and in pages. It depends on nothing.
import * as places from "./files.js";

const TEXT_BYTES = 16384;
const ALIGNMENT = 64; // of everything that is handed over
const PAGE = 65536;
const BAD_MODEL = 2, BAD_MACHINE = 3, NO_MEMORY = 4; // enum isthmus_status
// struct isthmus_tensor, isthmus_info and isthmus_dim_info of isthmus.h with 32-bit pointers: bytes of each
const TENSOR = 80, INFO = 16, DIM_INFO = 24, DIMS_AT = 16;
// enum isthmus_dtype
const DTYPES = [
  null,
  ["float32", Float32Array],
  ["float64", Float64Array],
  ["float16", Uint16Array],
  ["bfloat16", Uint16Array],
  ["int8", Int8Array],
  ["int16", Int16Array],
  ["int32", Int32Array],
  ["int64", BigInt64Array],
  ["uint8", Uint8Array],
  ["uint16", Uint16Array],
  ["uint32", Uint32Array],
  ["uint64", BigUint64Array],
  ["bool", Uint8Array],
];

/** What a run or a load was refused for: every problem, one per line. */
export class ModelError extends Error {
  constructor(text, status) {
    super(text);
    this.name = "ModelError";
    this.status = status;
  }
}

/** Reads the code and the weights, from beside this file unless told otherwise, and makes a model of them. */
export async function load({ code = places.code, weights = places.weights } = {}) {
  const parts = [];
  for await (const part of chunks(code)) parts.push(part);
  const { instance } = await compiled(await new Blob(parts).arrayBuffer());
  const memory = new Memory(instance.exports);
  instance.exports._initialize();
  if (weights === null) return new Model(memory, 0, 0);
  // Straight into the module's memory: weights are large.
  const place = memory.grow(places.weightsBytes);
  let bytes = 0;
  for await (const part of chunks(weights)) {
    if (bytes + part.length <= places.weightsBytes) memory.bytes(place + bytes, part.length).set(part);
    bytes += part.length;
  }
  return new Model(memory, place, bytes);
}

async function compiled(code) {
  try {
    return await WebAssembly.instantiate(code);
  } catch (error) {
    if (!(error instanceof WebAssembly.CompileError)) throw error;
    throw new ModelError(`this engine does not take the code: ${error.message}`, BAD_MACHINE);
  }
}

/** A model that answers requests, one at a time. Its memory goes when the last reference to it goes. */
export class Model {
  #memory;
  #call;
  #session;

  constructor(memory, weights, weightsBytes) {
    const call = memory.exports;
    this.#memory = memory;
    this.#call = call;
    const model = memory.made((...end) => call.isthmus_open_memory(weights, BigInt(weightsBytes), ...end));
    this.#session = memory.made((...end) => call.isthmus_session_new(model, 1, ...end));
    this.name = memory.text(call.isthmus_model_name(model));
    this.target = memory.text(call.isthmus_target_name(model));
    this.inputs = memory.ports(call.isthmus_input_count(model, 0), (i, out) => call.isthmus_input(model, 0, i, out));
    this.outputs = memory.ports(call.isthmus_output_count(model, 0), (i, out) => call.isthmus_output(model, 0, i, out));
    this.dims = memory.dims(call.isthmus_dim_count(model), (i, out) => call.isthmus_dim(model, i, out));
  }

  /** Outputs by name. Raises `ModelError` with everything that is wrong with the inputs. */
  run(inputs) {
    const memory = this.#memory, call = this.#call;
    const problems = wrong(this.inputs, inputs ?? {});
    if (problems.length) throw new ModelError(problems.join("\n"), 1);
    return memory.scope(() => {
      const given = memory.take(TENSOR * this.inputs.length);
      const made = memory.take(TENSOR * this.outputs.length);
      this.inputs.forEach((port, i) => memory.write(given + TENSOR * i, port, inputs[port.name]));
      memory.must((...end) => call.isthmus_shapes(this.#session, 0, given, made, ...end));
      this.outputs.forEach((_, i) => {
        const bytes = Number(call.isthmus_bytes(made + TENSOR * i));
        const data = memory.take(bytes);
        memory.view().setUint32(made + TENSOR * i, data, true);
      });
      memory.must((...end) => call.isthmus_run(this.#session, 0, given, made, ...end));
      return Object.fromEntries(this.outputs.map((port, i) => [port.name, memory.read(made + TENSOR * i)]));
    });
  }
}

/** What of the inputs is no tensor; sizes that do not fit the model are the runtime's to find. */
function wrong(ports, inputs) {
  const names = ports.map((port) => port.name);
  const problems = Object.keys(inputs)
    .filter((name) => !names.includes(name))
    .map((name) => `there is no input '${name}'; there are: ${names.join(", ")}`);
  for (const { name, dtype } of ports) {
    const array = DTYPES.find((known) => known?.[0] === dtype)[1];
    const tensor = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
    if (tensor === undefined) problems.push(`input '${name}' is missing`);
    else if (!(tensor?.data instanceof array)) problems.push(`input '${name}': data is no ${array.name} (${dtype})`);
    else if (!Array.isArray(tensor.dims) || !tensor.dims.every((size) => Number.isSafeInteger(size) && size >= 0))
      problems.push(`input '${name}': dims is no array of sizes`);
    else if (tensor.dims.length > 8) problems.push(`input '${name}': more than 8 dims`);
    else if (tensor.dims.reduce((count, size) => count * size, 1) !== tensor.data.length)
      problems.push(`input '${name}': ${tensor.data.length} elements do not fill dims [${tensor.dims.join(", ")}]`);
  }
  return problems;
}

/** The module's memory. Views of it end when it grows, so each is made when it is needed. */
class Memory {
  #taken = null; // what the current run has to give back

  constructor(exports) {
    this.exports = exports;
  }

  view() {
    return new DataView(this.exports.memory.buffer);
  }

  bytes(place, count) {
    return new Uint8Array(this.exports.memory.buffer, place, count);
  }

  take(bytes) {
    const whole = Math.ceil(Math.max(bytes, 1) / ALIGNMENT) * ALIGNMENT;
    const place = whole < 2 ** 32 ? this.exports.aligned_alloc(ALIGNMENT, whole) >>> 0 : 0;
    if (place === 0) throw full(bytes);
    this.#taken?.push(place);
    return place;
  }

  /** Room that is never given back: pages at the end, where malloc would take the next power of two. */
  grow(bytes) {
    try {
      return this.exports.memory.grow(Math.ceil(bytes / PAGE)) * PAGE;
    } catch {
      throw full(bytes);
    }
  }

  /** Runs `body`, and then gives back all that it took. */
  scope(body) {
    this.#taken = [];
    try {
      return body();
    } finally {
      for (const place of this.#taken) this.exports.free(place);
      this.#taken = null;
    }
  }

  /** Calls a function that ends with room for a text and its size, and raises that text if it fails. */
  must(call) {
    const text = (this.report ??= this.exports.aligned_alloc(ALIGNMENT, TEXT_BYTES) >>> 0);
    const status = call(text, TEXT_BYTES);
    if (status !== 0) throw new ModelError(this.text(text) || `status ${status}`, status);
  }

  /** The object that such a function makes. */
  made(call) {
    const out = this.take(4);
    this.must((...end) => call(out, ...end));
    const object = this.view().getUint32(out, true);
    this.exports.free(out);
    return object;
  }

  text(place) {
    const start = place >>> 0;
    const all = new Uint8Array(this.exports.memory.buffer);
    return new TextDecoder().decode(all.slice(start, all.indexOf(0, start)));
  }

  ports(count, describe) {
    return this.table(count, INFO, describe, (view, at) => ({
      name: this.text(view.getUint32(at, true)),
      dtype: DTYPES[view.getInt32(at + 8, true)][0],
      dims: this.text(view.getUint32(at + 4, true)),
    }));
  }

  dims(count, describe) {
    return this.table(count, DIM_INFO, describe, (view, at) => {
      const high = view.getBigInt64(at + 16, true);
      const free = high === 2n ** 63n - 1n;
      const low = Number(view.getBigInt64(at + 8, true));
      return { name: this.text(view.getUint32(at, true)), low, high: free ? null : Number(high) };
    });
  }

  table(count, size, describe, read) {
    return this.scope(() => {
      const out = this.take(size);
      return Array.from({ length: count }, (_, i) => {
        describe(i, out);
        return Object.freeze(read(this.view(), out));
      });
    });
  }

  write(place, port, { data, dims }) {
    const copy = this.take(data.byteLength);
    this.bytes(copy, data.byteLength).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    const view = this.view();
    view.setUint32(place, copy, true);
    view.setInt32(place + 4, DTYPES.findIndex((known) => known?.[0] === port.dtype), true);
    view.setInt32(place + 8, dims.length, true);
    dims.forEach((size, axis) => view.setBigInt64(place + DIMS_AT + 8 * axis, BigInt(size), true));
  }

  read(place) {
    const view = this.view();
    const rank = view.getInt32(place + 8, true);
    const dims = Array.from({ length: rank }, (_, axis) => Number(view.getBigInt64(place + DIMS_AT + 8 * axis, true)));
    const array = DTYPES[view.getInt32(place + 4, true)][1];
    const count = dims.reduce((product, size) => product * size, 1);
    const data = new array(view.buffer, view.getUint32(place, true), count).slice();
    return { data, dims };
  }
}

function full(bytes) {
  return new ModelError(`out of memory: ${bytes} bytes more cannot be had`, NO_MEMORY);
}

/** The bytes of an address, of a file's address (in Node), or of bytes, in pieces. */
async function* chunks(source) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) {
    yield source instanceof ArrayBuffer ? new Uint8Array(source) : new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
    return;
  }
  const url = new URL(source, globalThis.location?.href);
  if (url.protocol === "file:") {
    const { createReadStream } = await import(/* webpackIgnore: true */ "node:fs");
    yield* createReadStream(url, { highWaterMark: 1 << 20 });
    return;
  }
  const answer = await fetch(url);
  if (!answer.ok) throw new ModelError(`${url} cannot be fetched: status ${answer.status}`, BAD_MODEL);
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}
