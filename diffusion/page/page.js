"use strict";
// The page of results. What it shows comes from a source, which is what the file stores or the
// service that is asked. All text is shown through textContent: names and ids may be hostile.
(() => {
  const data = parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);

  // --- JSON: ids are integers of 64 bits, which the numbers of JavaScript do not hold ------------

  function parse(text) {
    return JSON.parse(text, (key, value, context) =>
      typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source)
        ? BigInt(context.source)
        : value);
  }

  function written(value) {
    return JSON.stringify(value, (key, each) =>
      typeof each === "bigint" ? JSON.rawJSON(each.toString()) : each);
  }

  // A text in an address. What is no UTF-8 in the name of a file has lone surrogates for its bytes,
  // as in Python; encodeURIComponent fails on them.
  function encoded(text) {
    return text.replace(/([\udc80-\udcff])|[^\udc80-\udcff]+/gu, (part, byte) => byte
      ? `%${(byte.charCodeAt(0) - 0xdc00).toString(16)}`
      : encodeURIComponent(part.replace(/\p{Cs}/gu, "\ufffd")));
  }

  // --- elements ----------------------------------------------------------------------------------

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null)); // strings become text
    return made;
  }

  function nameOf(text) {
    return element("span", {class: "name", title: text}, element("bdi", {}, text));
  }

  // A frame with a picture, which the name follows; where there are none, a card with the name.
  function frameOf(text, picture) {
    if (!source.photos) return element("span", {class: "frame text"}, element("bdi", {}, text));
    const frame = element("span", {class: "frame"});
    const absent = () => frame.replaceChildren("no photo");
    Promise.resolve(picture).then((address) => {
      if (!address) return absent();
      const image = element("img", {alt: "", decoding: "async"});
      image.addEventListener("error", absent);
      image.src = address;
      frame.replaceChildren(image);
    }, absent);
    return frame;
  }

  // --- what the file stores ----------------------------------------------------------------------

  function stored() {
    const pictures = [...document.querySelectorAll("script.picture")];
    const pictureAt = (number) => pictures[number]?.textContent;
    return {
      photos: pictures.length > 0,
      grid: {query_k: data.query_k, weight: data.weight},
      own: {
        query_k: Math.floor(data.own / (data.weight.length || 1)),
        weight: data.own % (data.weight.length || 1),
      },
      listed: data.listed,
      complete: data.complete,
      limits: `The file holds the first ${data.shown} results for each setting of the sliders. The ` +
        "filter hides those of them whose names do not contain the text; it does not search " +
        "again. Explanations are those at the settings of the index.",
      name: (item) => data.items[item],
      picture: (item) => pictureAt(data.queries.length + item),
      pictureOf: (query) => pictureAt(query.number),
      async answer({query, query_k, weight, containing}) {
        const number = query_k * (data.weight.length || 1) + weight;
        const found = data.queries[query.number].answers[number];
        const list = (items, others) => items
          .map((item, place) => ({item, rank: place + 1, other: others[place] || null}))
          .filter(({item}) => contains(data.items[item], containing));
        return {
          before: list(found.before, found.went),
          after: list(found.after, found.was),
          confidence: found.confidence ?? null,
          relevant: found.relevant ?? null,
        };
      },
      async explain({query}, item) {
        return data.queries[query.number].explanations[item] ?? null;
      },
    };
  }

  const contains = (name, text) => name.toLowerCase().includes(text.toLowerCase());

  // --- the service -------------------------------------------------------------------------------

  class Refusal extends Error {
    constructor(message, status = 0) {
      super(message);
      this.status = status;
    }
  }

  async function reasonOf(response) {
    try {
      const {detail} = await response.json();
      if (typeof detail === "string") return detail;
      return detail.map(({loc, msg}) => `${loc.slice(1).join(".")}: ${msg}`).join("; ");
    } catch {
      return `${response.status} ${response.statusText}`;
    }
  }

  function served() {
    const LENGTH = 100; // of the rankings that are asked for
    const names = new Map(); // by the text of an id; ids have their own text where there are no photos
    const pictures = new Map(); // addresses of blobs, where a token is needed to fetch pictures
    let token = null;
    let info = {};

    async function ask(path, options = {}) {
      const headers = {...options.headers};
      if (token !== null) headers.Authorization = `Bearer ${token}`;
      let response;
      try {
        response = await fetch(path, {...options, headers});
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Refusal("The service cannot be reached.", 503);
      }
      if (!response.ok) throw new Refusal(await reasonOf(response), response.status);
      return response;
    }

    async function post(path, body, signal) {
      const headers = {"Content-Type": "application/json"};
      return replyOf(await ask(path, {method: "POST", headers, body: written(body), signal}));
    }

    async function replyOf(response) {
      const reply = parse(await response.text());
      for (const [id, name] of Object.entries(reply.names ?? {})) names.set(id, name);
      return reply;
    }

    async function blobOf(address) {
      const response = await ask(address);
      return URL.createObjectURL(await response.blob());
    }

    function picture(id) {
      const address = `picture?id=${encoded(String(id))}`;
      if (token === null) return address;
      if (!pictures.has(address)) pictures.set(address, blobOf(address));
      if (pictures.size > 500) {
        const [oldest, url] = pictures.entries().next().value;
        pictures.delete(oldest);
        url.then(URL.revokeObjectURL, () => {});
      }
      return pictures.get(address);
    }

    const settingsOf = ({query_k, weight}) => ({
      query_k: source.grid.query_k[query_k] ?? null,
      weight: source.grid.weight[weight] ?? null,
    });

    // The values of a slider: those given, and that of the index.
    const around = (own, values) => [...new Set([...values, own])].sort((a, b) => a - b);

    const source = {
      photos: data.photos,
      grid: {query_k: [], weight: []},
      own: {query_k: 0, weight: 0},
      listed: LENGTH,
      limits: "",
      name: (id) => names.get(String(id)) ?? String(id),
      picture,
      pictureOf: (query) => query.address ?? (query.item === undefined ? null : picture(query.item)),
      useToken(text) {
        token = text;
      },
      async open() {
        info = await replyOf(await ask("info"));
        const {query_k} = info.parameters;
        source.complete = info.items <= LENGTH;
        source.grid.query_k = around(query_k, [1, 2, 3, 5, 7, 10, 15, 20, 30, 50]);
        source.own.query_k = source.grid.query_k.indexOf(query_k);
        if (info.weight !== null) {
          source.grid.weight = around(info.weight, [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3]);
          source.own.weight = source.grid.weight.indexOf(info.weight);
        }
        $("dimension").textContent = `(${info.dimension} numbers)`;
        $("upload").hidden = !data.photos;
        $("paste").hidden = data.photos || info.dimension === null;
        $("like").hidden = info.dimension === null;
        if (info.dimension === null) source.limits = "This index has no vectors to search.";
      },
      // The id that a text names.
      idOf(text) {
        if (info.ids !== "int") return text;
        if (!/^-?\d+$/.test(text.trim())) throw new Refusal(`“${text}” is no integer, as ids here are.`);
        return parse(text.trim());
      },
      async answer(state, signal) {
        const {query, containing} = state;
        const options = {...settingsOf(state), k: LENGTH, first: true, containing: containing || null};
        let reply;
        if (query.file) {
          const form = new FormData();
          form.append("photo", query.file);
          form.append("options", written(options));
          reply = await replyOf(await ask("photos", {method: "POST", body: form, signal}));
          query.vector = reply.vectors[0];
          delete query.file;
        } else {
          const asked = query.item === undefined ? {vectors: [query.vector]} : {items: [query.item]};
          reply = await post("search", {...asked, ...options}, signal);
        }
        const [{results, first, confidence, relevant}] = reply.queries;
        const ranks = new Map(results.map(({id}, place) => [id, place + 1]));
        return {
          before: first.map(({id}, place) => ({item: id, rank: place + 1, other: ranks.get(id) ?? null})),
          after: results.map(({id, first_rank}, place) => ({item: id, rank: place + 1, other: first_rank ?? null})),
          confidence,
          relevant,
        };
      },
      async explain(state, item) {
        const {query} = state;
        const asked = query.item === undefined ? {vector: query.vector} : {item: query.item};
        const reply = await post("explain", {...asked, ...settingsOf(state), id: item, k: LENGTH, n_chains: 3});
        return reply.explanation;
      },
    };
    return source;
  }

  // --- state -------------------------------------------------------------------------------------

  const inService = data.mode === "service";
  const source = inService ? served() : stored();
  const STEP = data.shown ?? 12;
  const state = {query: null, query_k: 0, weight: 0, containing: "", shown: STEP};
  let answer = null;
  let opened = null; // the item that is explained
  let running = null;

  // Ask the source for the present state and show its answer. The latest question counts.
  async function search() {
    if (state.query === null) return;
    running?.abort();
    const own = (running = new AbortController());
    $("results").hidden = false;
    $("results").setAttribute("aria-busy", "true");
    if (inService) $("status").textContent = "Searching …";
    try {
      const found = await source.answer(state, own.signal);
      if (own !== running) return;
      answer = found;
      $("alert").replaceChildren();
      show();
    } catch (error) {
      if (own !== running || error.name === "AbortError") return;
      $("results").hidden = answer === null;
      $("status").textContent = answer === null ? "" : "These are the previous results.";
      complain(error, search);
    } finally {
      if (own === running) $("results").removeAttribute("aria-busy");
    }
  }

  function ask(query) {
    Object.assign(state, {query, shown: STEP});
    answer = null;
    $("name").replaceChildren(element("bdi", {}, query.name));
    $("asked").replaceChildren(...(source.photos ? [frameOf(query.name, source.pictureOf(query))] : []));
    $("sides").hidden = $("more").hidden = true;
    return search();
  }

  // Show what went wrong, and offer what can be done about it.
  function complain(error, retry) {
    const parts = [element("p", {}, error.message)];
    if (error.status === 401) {
      $("token").hidden = false;
      $("token").onsubmit = (event) => {
        event.preventDefault();
        source.useToken($("secret").value);
        $("token").hidden = true;
        $("alert").replaceChildren();
        retry();
      };
      $("secret").focus();
    } else if (error.status === 503) {
      parts.unshift(element("p", {}, "The service is busy or does not answer."));
      const again = element("button", {type: "button"}, "Try again");
      again.addEventListener("click", retry);
      parts.push(again);
    }
    $("alert").replaceChildren(...parts);
    if (!(error instanceof Refusal)) throw error; // a defect of this page
  }

  // --- results -----------------------------------------------------------------------------------

  // A rank in the other list; beyond its end, it is only known to be larger.
  const rankText = (rank) => rank ?? (source.complete ? "–" : `>${source.listed}`);

  // How a result has moved, in "before" or "after", among the first `shown` of each.
  function moveOf({rank, other}, after) {
    const kept = other !== null && other <= state.shown;
    const [from, to] = after ? [other, rank] : [rank, other];
    if (!kept) {
      const kind = after ? "new" : "left";
      return {kind, text: `${kind}: ${rankText(from)} → ${rankText(to)}`};
    }
    if (from === to) return {kind: "same", text: String(rank)};
    return {kind: from > to ? "up" : "down", text: `${from} → ${to}`};
  }

  const atOwn = () => ["query_k", "weight"].every((name) => state[name] === source.own[name]);

  function show() {
    const lists = {};
    for (const side of ["before", "after"]) {
      const after = side === "after";
      lists[side] = answer[side].slice(0, state.shown).map((result) => ({
        ...result, ...moveOf(result, after),
      }));
      $(side).replaceChildren(...lists[side].map(resultOf));
    }
    $("sides").hidden = false;
    $("more").hidden = Math.max(answer.before.length, answer.after.length) <= state.shown;
    $("status").textContent = summaryOf(lists.after);
    $("reset").hidden = atOwn();
  }

  function resultOf({item, kind, text}) {
    const name = source.name(item);
    const button = element("button", {type: "button", class: "result"},
      frameOf(name, source.photos ? source.picture(item) : null),
      element("span", {class: "move"}, text), source.photos ? nameOf(name) : null);
    button.addEventListener("click", () => explain(item));
    return element("li", {class: kind}, button);
  }

  function summaryOf(after) {
    if (!after.length) return "No results.";
    const setting = ["query_k", "weight"].filter((name) => source.grid[name].length)
      .map((name) => `${name} ${source.grid[name][state[name]]}`);
    const count = (kind) => after.filter((result) => result.kind === kind).length;
    const parts = [
      `Of the ${after.length} results shown, ${count("new")} are new, ${count("up")} moved up, ` +
        `${count("down")} moved down and ${count("same")} kept their place.`,
    ];
    if (answer.confidence !== null) {
      parts.push(`Confidence ${Math.round(100 * answer.confidence)}\u00a0%: the estimated probability ` +
        "that diffusion does not make this ranking worse.");
    }
    if (answer.relevant !== null) parts.push(`About ${answer.relevant} items seem to be relevant.`);
    if (!atOwn()) parts.push(`This is with ${setting.join(" and ")}.`);
    return parts.join(" ");
  }

  // Arrow keys move between results, as they are placed on the screen.
  function moveFocus(event) {
    const buttons = [...event.currentTarget.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (at < 0) return;
    const row = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
    const to = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - row, ArrowDown: at + row,
      Home: 0, End: buttons.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    buttons[to]?.focus();
  }

  // --- explanations ------------------------------------------------------------------------------

  async function explain(item) {
    opened = item;
    $("why-title").replaceChildren(element("bdi", {}, source.name(item)));
    $("explanation").replaceChildren(element("p", {role: "status"}, "Explaining …"));
    $("similar").hidden = !inService;
    $("why").showModal();
    let parts;
    try {
      const explanation = await source.explain(state, item);
      parts = explanation === null
        ? [element("p", {}, "The file explains the results at the settings of the index only, and " +
            "this one is not among them there. `diffusion serve` explains every result.")]
        : explained(item, explanation);
    } catch (error) {
      parts = [element("p", {role: "alert"}, error.message)];
    }
    if (opened === item) $("explanation").replaceChildren(...parts);
  }

  const short = (number) => String(Number(number.toPrecision(3)));
  const percent = (share) => `${short(100 * share)}\u00a0%`;

  function explained(item, {first_rank, rank, score, shares, reached, chains}) {
    const place = (found) => (found === null ? "not listed" : `place ${found}`);
    const parts = [
      !inService && !atOwn()
        ? element("p", {class: "note"}, "This is the explanation at the settings of the index.") : null,
      element("p", {}, `First stage: ${place(first_rank)}. After diffusion: ${place(rank)}` +
        `${score === null ? "" : `, with a score of ${short(score)}`}.`),
      sharesOf(shares),
    ].filter((part) => part !== null);
    if (!reached) {
      return [...parts, element("p", {}, "Diffusion does not reach it. It stands here by its " +
        "similarity to the query.")];
    }
    parts.push(
      element("h3", {}, chains.length === 1 ? "The strongest chain to it" : "The strongest chains to it"),
      element("p", {class: "note"}, "The first number is the similarity of the query to the first item of the " +
        "chain, the others are the weights of the edges. A chain of one step means that diffusion " +
        "starts from the item itself."),
      ...chains.map((chain) => chainOf(item, chain)));
    return parts;
  }

  const SHARES = {diffusion: "diffusion", neighbourhood: "similar neighbourhood", first_stage: "first stage"};

  // What the score is the sum of, as bars.
  function sharesOf(shares) {
    const sum = Object.values(shares).reduce((a, b) => a + b, 0);
    if (!(sum > 0)) return null;
    return element("dl", {class: "shares"}, ...Object.entries(SHARES).flatMap(([key, text]) => {
      const bar = element("i", {"aria-hidden": "true"});
      bar.style.width = `${(100 * shares[key]) / sum}%`;
      return [
        element("dt", {}, text),
        element("dd", {}, element("span", {class: "value"}, percent(shares[key] / sum)), bar),
      ];
    }));
  }

  function chainOf(item, {ids, weights, observed, similarity, share}) {
    const stepTo = (weight) => element("span", {class: "step"}, element("b", {"aria-hidden": "true"}, "→"), short(weight));
    const query = source.photos ? frameOf("the query", source.pictureOf(state.query)) : null;
    const steps = [similarity ?? observed, ...weights];
    const list = element("ol", {class: "chain"},
      element("li", {}, element("span", {class: "link"}, query, element("span", {class: "name"}, "query"))),
      ...ids.map((id, place) => element("li", {class: place === ids.length - 1 ? "last" : "between"},
        stepTo(steps[place]),
        element("span", {class: "link"}, frameOf(source.name(id), source.photos ? source.picture(id) : null),
          source.photos ? nameOf(source.name(id)) : null))));
    const said = share === null ? [] : [element("p", {class: "note"},
      `This chain carries ${percent(share)} of its diffused score; very many others carry the rest.`)];
    return element("div", {}, list, ...said);
  }

  // --- controls ----------------------------------------------------------------------------------

  function set(name, number) {
    const input = $(name);
    const text = `${source.grid[name][number]}${number === source.own[name] ? " (of the index)" : ""}`;
    state[name] = input.value = number;
    input.parentElement.querySelector(".at").textContent = text;
    input.setAttribute("aria-valuetext", text);
  }

  function slider(name) {
    const input = $(name);
    const last = source.grid[name].length - 1;
    input.max = last;
    input.parentElement.hidden = last < 1;
    if (last >= 0) set(name, source.own[name]);
    input.addEventListener("input", () => set(name, Number(input.value)));
    // The service is not asked at each step on the way.
    input.addEventListener(inService ? "change" : "input", search);
  }

  function onSubmit(id, query) {
    $(id).addEventListener("submit", (event) => {
      event.preventDefault();
      try {
        ask(query());
      } catch (error) {
        complain(error, () => {});
      }
    });
  }

  function numbersIn(text) {
    const words = text.split(/[\s,;[\]]+/).filter((word) => word);
    const wrong = words.find((word) => !Number.isFinite(Number(word)));
    if (wrong !== undefined) throw new Refusal(`“${wrong}” is not a number.`);
    return words.map(Number);
  }

  function like(item) {
    return {item, name: `Like ${source.name(item)}`};
  }

  function upload(file) {
    if (!file) return;
    if (state.query?.address) URL.revokeObjectURL(state.query.address);
    ask({file, name: file.name, address: URL.createObjectURL(file)});
  }

  function listenInService() {
    onSubmit("like", () => like(source.idOf($("item").value)));
    onSubmit("paste", () => ({vector: numbersIn($("vector").value), name: "The pasted vector"}));
    $("similar").addEventListener("click", () => {
      $("why").close();
      ask(like(opened));
      $("results").focus();
    });
    if (!data.photos) return;
    $("photo").addEventListener("change", () => upload($("photo").files[0]));
    for (const kind of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(kind, (event) => {
        event.preventDefault();
        document.body.classList.toggle("dropping", kind === "dragover");
        if (kind === "drop") upload(event.dataTransfer.files[0]);
      });
    }
  }

  function listenInFile() {
    const select = $("query");
    select.append(...data.queries.map(({name}, number) => element("option", {value: number}, name)));
    const choose = (number) => {
      select.value = number;
      $("previous").disabled = number === 0;
      $("next").disabled = number === data.queries.length - 1;
      ask({number, name: data.queries[number].name});
    };
    select.addEventListener("change", () => choose(Number(select.value)));
    $("previous").addEventListener("click", () => choose(state.query.number - 1));
    $("next").addEventListener("click", () => choose(state.query.number + 1));
    $("choose").hidden = data.queries.length < 2;
    if (data.queries.length) choose(0);
  }

  async function begin() {
    try {
      await source.open?.();
    } catch (error) {
      $("ask").hidden = true;
      return complain(error, begin);
    }
    $("ask").hidden = false;
    $("alert").replaceChildren();
    $("limits").textContent = source.limits;
    slider("query_k");
    slider("weight");
    if (inService) listenInService();
    else listenInFile();
  }

  let typing = null;
  $("containing").addEventListener("input", () => {
    state.containing = $("containing").value;
    state.shown = STEP;
    clearTimeout(typing);
    typing = setTimeout(search, inService ? 250 : 0);
  });
  $("reset").addEventListener("click", () => {
    for (const name of ["query_k", "weight"]) {
      if (source.grid[name].length) set(name, source.own[name]);
    }
    search();
  });
  $("more").addEventListener("click", () => {
    const before = $("after").children.length;
    state.shown += STEP;
    show();
    $("after").children[before]?.querySelector("button").focus();
  });
  for (const side of ["before", "after"]) $(side).addEventListener("keydown", moveFocus);
  $("close").addEventListener("click", () => $("why").close());
  $("why").addEventListener("click", (event) => {
    if (event.target === $("why")) $("why").close(); // the backdrop
  });
  $("why").addEventListener("close", () => {
    opened = null;
  });
  document.documentElement.classList.toggle("pixelated", data.pixelated === true);
  document.documentElement.classList.toggle("texts", !source.photos);
  $("interface").hidden = false;
  $("plain").hidden = true; // for readers without a script
  begin();
})();
