// How wide a page is, and what makes it so
() => {
  const page = document.documentElement.scrollWidth
  const clipped = e => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) if (getComputedStyle(p).overflowX !== 'visible') return true }
  const wide = [...document.querySelectorAll('body *')].map(e => [e.getBoundingClientRect().right, e]).filter(([r, e]) => r > innerWidth + 1 && !clipped(e)).sort((a, b) => b[0] - a[0])
  const e = wide.length && wide[0][1]
  return [page, e ? `${e.tagName.toLowerCase()}${e.id && '#' + e.id}.${e.className} to ${Math.round(wide[0][0])} px: ${e.textContent.trim().slice(0, 60)}` : 'nothing that can be seen']
}
