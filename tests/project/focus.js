// What has the focus: its text, whether it can be seen, and whether the focus shows
() => {
      const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect()
      const ring = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0 || s.boxShadow !== 'none' || s.textDecorationLine.includes('underline')
      return {tag: e.tagName, text: (e.innerText || e.getAttribute('aria-label') || e.placeholder || e.title || '').trim().slice(0, 40), href: e.getAttribute('href'),
              seen: r.width > 1 && r.height > 1 && r.right > 0 && r.left < innerWidth && r.bottom > 0 && r.top < innerHeight, ring}
    }
