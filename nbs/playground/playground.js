// The playground: similarities of rendered faces under two towers. playground.ipynb computes and writes what is shown here.
(async () => {
  const root = document.getElementById('playground')
  if (!root) return
  const beside = name => new URL(name, document.currentScript.src).href
  const [data, sprite, style] = ['similarities.json', 'faces.webp', 'playground.css'].map(beside)
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag)
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
    made.append(...children)
    return made
  }
  document.head.append(element('link', { rel: 'stylesheet', href: style }))

  let all
  try {
    const answer = await fetch(data)
    if (!answer.ok) throw new Error(answer.status)
    all = await answer.json()
  } catch (error) {
    root.replaceChildren(element('p', { role: 'alert' }, `The playground could not load its numbers (${error.message}). Load the page again.`))
    return
  }
  const { people, expressions, models } = all, columns = expressions.length, NEAREST = 5
  const held = { identity: 0, expression: 1 }, now = { ...held, identity: 1 }  // the leak is seen before anything is touched
  const index = face => face.identity * columns + face.expression
  const place = i => ({ identity: Math.floor(i / columns), expression: i % columns })
  const cosine = (model, a, b) => model.similarity[Math.max(a, b)][Math.min(a, b)]
  const moved = (model, a, b) => (1 - cosine(model, a, b)) / (1 - model.unrelated)  // in mean distances of two faces that share nothing
  const farthest = Math.max(...Object.values(models).map(m => (1 - Math.min(...m.similarity.flat())) / (1 - m.unrelated)))
  const words = face => `person ${face.identity + 1} (${people[face.identity]}), ${expressions[face.expression]}`
  const relation = (a, b) => {
    const person = a.identity === b.identity, expression = a.expression === b.expression
    if (person && expression) return 'the same face'
    if (person) return 'same person, other expression'
    return expression ? 'same expression, other person' : 'other person, other expression'
  }

  // what is on the page
  const thumbnail = () => element('span', { class: 'pg-face', role: 'img' })
  const show = (span, face) => {
    span.style.backgroundImage = `url("${sprite}")`
    span.style.backgroundSize = `${columns * 100}% ${people.length * 100}%`
    span.style.backgroundPosition = `${face.expression / (columns - 1) * 100}% ${face.identity / (people.length - 1) * 100}%`
    span.setAttribute('aria-label', words(face))
  }
  const slider = (name, label, last) => {
    const input = element('input', { type: 'range', id: name, min: 0, max: last, step: 1, value: now[name] })
    const value = element('span')
    input.addEventListener('input', () => { now[name] = Number(input.value); update() })
    return { input, value, row: element('div', { class: 'pg-slider' }, element('label', { for: name }, label), value, input) }
  }
  const button = (label, act) => {
    const made = element('button', { type: 'button' }, label)
    made.addEventListener('click', () => { act(); update() })
    return made
  }
  const next = (name, size) => {  // the value after the present one that is not the held one
    let value = (now[name] + 1) % size
    if (value === held[name]) value = (value + 1) % size
    return value
  }
  const identity = slider('identity', 'Person', people.length - 1), expression = slider('expression', 'Expression', columns - 1)
  const faceThumbnail = { held: thumbnail(), now: thumbnail() }
  const relationText = element('p', { class: 'pg-relation' })
  const live = element('p', { class: 'pg-live', 'aria-live': 'polite' })
  const buttons = element('div', { class: 'pg-buttons' },
    button('same expression, other person', () => Object.assign(now, { identity: next('identity', people.length), expression: held.expression })),
    button('same person, other expression', () => Object.assign(now, { expression: next('expression', columns), identity: held.identity })),
    button('hold this face', () => Object.assign(held, now)))
  const unit = () => {
    const line = element('span', { class: 'pg-unit', title: 'as far as between two faces that share neither person nor expression' })
    line.style.left = `${100 / farthest}%`
    return line
  }
  const shown = Object.entries(models).map(([name, model]) => {
    const bar = element('div', { class: 'bar', 'data-model': name, 'data-label': 'movement' }), note = element('span', { class: 'pg-note' })
    const faces = Array.from({ length: NEAREST }, () => {
      const span = thumbnail(), tag = element('span', { class: 'pg-tag' })
      return { span, tag, item: element('li', {}, span, tag) }
    })
    return { name, model, bar, note, faces,
      bars: element('div', { class: 'pg-bar' }, element('span', {}, model.title), element('div', { class: 'pg-track' }, bar, unit())),
      nearest: element('div', { class: 'pg-nearest' }, element('p', {}, element('b', {}, name), ': ', note),
        element('ul', { 'aria-label': `the ${NEAREST} nearest faces for ${name}` }, ...faces.map(f => f.item))) }
  })
  root.replaceChildren(
    element('div', { class: 'pg-faces' },
      element('figure', {}, faceThumbnail.held, element('figcaption', {}, 'held')),
      element('figure', {}, faceThumbnail.now, element('figcaption', {}, 'now')),
      element('div', { class: 'pg-controls' }, identity.row, expression.row, buttons)),
    element('p', { class: 'pg-title' }, 'How far does the embedding move from held to now?'), relationText, ...shown.map(s => s.bars), live,
    element('p', { class: 'pg-title' }, 'Whose faces lie nearest to the face now?'), ...shown.map(s => s.nearest))

  function update() {
    const a = index(held), b = index(now), same = relation(held, now)
    identity.input.value = now.identity; expression.input.value = now.expression
    identity.value.textContent = `${now.identity + 1}: ${people[now.identity]}`
    expression.value.textContent = expressions[now.expression]
    for (const { input, value } of [identity, expression]) input.setAttribute('aria-valuetext', value.textContent)
    show(faceThumbnail.held, held); show(faceThumbnail.now, now)
    relationText.textContent = `The two: ${same}.`
    const said = shown.map(({ name, model, bar, note, faces }) => {
      const x = moved(model, a, b)
      bar.style.width = `${x / farthest * 100}%`
      bar.replaceChildren(element('span', {}, x.toFixed(2)))
      const others = [...Array(people.length * columns).keys()].filter(i => i !== b).sort((i, j) => cosine(model, b, j) - cosine(model, b, i) || i - j)
      const near = others.slice(0, NEAREST).map(place), count = key => near.filter(f => f[key] === now[key]).length
      faces.forEach(({ span, tag, item }, k) => {
        const kind = near[k].identity === now.identity ? 'person' : near[k].expression === now.expression ? 'expression' : 'neither'
        show(span, near[k]); item.className = `pg-${kind}`
        tag.textContent = kind === 'neither' ? 'neither' : `same ${kind}`
      })
      note.textContent = `${count('identity')} of ${NEAREST} are the same person, ${count('expression')} show the same expression.`
      return `${name} ${x.toFixed(2)}`
    })
    live.textContent = `Moved: ${said.join(', ')}. The tick marks 1, the mean distance of two faces that share neither person nor expression.`
  }
  update()
  root.dataset.ready = '1'
})()
