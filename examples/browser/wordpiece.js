// The tokenizer of BERT's uncased models: plain words and punctuation, cut into the longest known pieces.

const MOST_LETTERS = 100; // of a word; longer ones are unknown
// Every ASCII sign counts as punctuation, as do Unicode's own.
const PUNCTUATION = "\\p{P}$+<=>^`|~";
const WORDS = new RegExp(`[${PUNCTUATION}]|[^\\s${PUNCTUATION}]+`, "gu");
const IDEOGRAPHS = /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

export class Tokenizer {
  #vocabulary;

  /** `description` is what a tokenizer.json holds. */
  constructor(description) {
    this.#vocabulary = new Map(Object.entries(description.model.vocab));
  }

  /** Ids of the text's pieces, between those of [CLS] and [SEP], at most `most`. */
  encode(text, most = 512) {
    const pieces = words(text).flatMap((word) => this.#pieces(word)).slice(0, most - 2);
    return ["[CLS]", ...pieces, "[SEP]"].map((piece) => this.#vocabulary.get(piece));
  }

  #pieces(word) {
    const letters = [...word], pieces = [];
    if (letters.length > MOST_LETTERS) return ["[UNK]"];
    for (let start = 0, end = letters.length; start < letters.length; end = letters.length) {
      const piece = () => (start ? "##" : "") + letters.slice(start, end).join("");
      while (end > start && !this.#vocabulary.has(piece())) end--;
      if (end === start) return ["[UNK]"];
      pieces.push(piece());
      start = end;
    }
    return pieces;
  }
}

/** Lower case without accents and control characters, cut at spaces and around punctuation and ideographs. */
function words(text) {
  const clean = text.replace(/[\t\n\r]/g, " ").replace(/[\p{C}\ufffd]/gu, "").replace(IDEOGRAPHS, " $& ");
  const bare = clean.normalize("NFD").replace(/\p{Mn}/gu, "");
  // Letter by letter: a sigma at the end of a word is one like any other.
  return Array.from(bare, (letter) => letter.toLowerCase()).join("").match(WORDS) ?? [];
}

/** Inputs of the model: ids padded with zeros to the longest, and a mask that says which are there. */
export function batch(texts) {
  const dims = [texts.length, Math.max(...texts.map((ids) => ids.length))];
  const ids = new BigInt64Array(dims[0] * dims[1]), mask = new BigInt64Array(dims[0] * dims[1]);
  texts.forEach((text, row) => {
    ids.set(text.map(BigInt), row * dims[1]);
    mask.fill(1n, row * dims[1], row * dims[1] + text.length);
  });
  return { input_ids: { data: ids, dims }, attention_mask: { data: mask, dims } };
}
