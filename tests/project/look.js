// What a page shows: images, formulas, headings
async () => {
  const images = [...document.images]
  for (const i of images) i.loading = 'eager'
  await Promise.all(images.map(i => i.decode().catch(() => 0)))
  await document.fonts.ready
  const section = i => i.closest('section[id]')?.id || 'the top'
  const name = i => i.src.startsWith('data:') ? `image ${images.indexOf(i) + 1} in #${section(i)}` : i.getAttribute('src')
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), raw = []
  while (walker.nextNode()) {
    const n = walker.currentNode
    if (!n.parentElement.closest('code, pre, script, style, textarea, .katex, svg') && /\\[([]|\$\$|\\(frac|sum|log|mathcal|top)\b/.test(n.data)) raw.push(n.data.trim().slice(0, 80))
  }
  const shown = h => h.checkVisibility()
  return {
    images: images.length,
    broken: images.filter(i => !i.naturalWidth).map(name),
    unnamed: images.filter(i => !i.hasAttribute('alt') || (!i.alt.trim() && i.closest('main') && i.naturalWidth > 40)).map(name),
    formulas: document.querySelectorAll('.katex').length,
    misread: [...document.querySelectorAll('.katex-error')].map(e => e.textContent.slice(0, 80)),
    raw,
    headings: [...document.querySelectorAll('main h1, main h2, main h3, main h4, main h5, main h6')].filter(shown).map(h => [+h.tagName[1], h.textContent.trim()]),
    lang: document.documentElement.lang, title: document.title,
  }
}
