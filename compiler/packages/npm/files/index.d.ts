/** A dense row-major tensor: `data` holds as many elements as `dims` multiply to. */
export interface Tensor<Data> {
  readonly data: Data;
  readonly dims: readonly number[];
}

export interface Inputs {
$inputs}

export interface Outputs {
$outputs}

/** An input or output; `dims` is text such as "batch, seq, 384". */
export interface Port {
  readonly name: string;
  readonly dtype: string;
  readonly dims: string;
}

/** A named dim and the sizes it may take, both included; `high` is null where there is no upper bound. */
export interface Dim {
  readonly name: string;
  readonly low: number;
  readonly high: number | null;
}

/** Every problem, one per line; `status` is one of `enum isthmus_status`. */
export class ModelError extends Error {
  readonly status: number;
}

/** A model that answers requests, one at a time. Its memory goes when the last reference to it goes. */
export class Model {
  private constructor();
  readonly name: string;
  readonly target: string;
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly dims: readonly Dim[];
  /** Throws `ModelError` when the inputs do not fit the model. */
  run(inputs: Inputs): Outputs;
}

/** Where the code and the weights are, if not beside this file: an address, or the bytes themselves. */
export interface Sources {
  code?: URL | string | ArrayBuffer | Uint8Array;
  weights?: URL | string | ArrayBuffer | Uint8Array;
}

export function load(sources?: Sources): Promise<Model>;
