// Embeds a question and some sentences with the compiled model, here in the page, and shows how similar they are.
import { load } from "./bundle/js/index.js";
import { Tokenizer, batch } from "./wordpiece.js";

const question = document.querySelector("#question");
const answers = document.querySelector("#answers");
const status = document.querySelector("#status");

function say(state, text) {
  status.dataset.state = state;
  status.textContent = text;
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

/** One vector for each text. */
function embed(model, tokenizer, output, texts) {
  const { data, dims } = model.run(batch(texts.map((text) => tokenizer.encode(text))))[output];
  return texts.map((_, i) => data.subarray(i * dims[1], (i + 1) * dims[1]));
}

function row(sentence, similarity) {
  const made = document.createElement("tr");
  for (const text of [sentence, similarity.toFixed(4)]) made.insertCell().textContent = text;
  return made;
}

try {
  const json = async (path) => (await fetch(path)).json();
  const [model, demo, vocabulary] = await Promise.all([load(), json("demo.json"), json("tokenizer.json")]);
  const tokenizer = new Tokenizer(vocabulary);
  const show = () => {
    const started = performance.now();
    const [asked, ...vectors] = embed(model, tokenizer, demo.output, [question.value, ...demo.sentences]);
    const milliseconds = performance.now() - started;
    const found = vectors.map((vector, i) => [demo.sentences[i], cosine(asked, vector)]);
    answers.replaceChildren(...found.sort((a, b) => b[1] - a[1]).map((pair) => row(...pair)));
    say("done", `${model.name} for ${model.target}: ${vectors.length + 1} texts in ${milliseconds.toFixed(0)} ms`);
  };
  question.value = demo.question;
  question.addEventListener("input", show);
  show();
} catch (error) {
  say("failed", String(error));
}
