// The ranking of the search box, in place of the fuzzy one that smalldocs brings: it calls new Fuse(entries).search(words, {limit}).
// All words must occur. What is called exactly so comes first, then what begins so, then titles and headings, then text.
window.Fuse = class {
  constructor(entries) {
    this.entries = entries.map((item) => {
      const [title, section, text] = [item.title, item.section, item.text].map((s) => (s || "").toLowerCase());
      return { item, title, section, text, name: section || title, all: `${title} ${section} ${text}` };
    });
  }
  search(query, { limit }) {
    const whole = query.toLowerCase().replace(/\(\)$/, ""), words = whole.split(/\s+/);
    const score = (e) => {
      if (!words.every((w) => e.all.includes(w))) return 0;
      const last = e.name.split(".").pop();
      let s = e.name === whole ? 1000 : last === whole ? 600 : e.name.startsWith(whole) ? 300 : 1;
      for (const w of words) {
        s += 40 * e.section.includes(w) + 20 * e.title.includes(w) + Math.min(9, e.text.split(w).length - 1);
      }
      return s;
    };
    return this.entries.map((e) => ({ item: e.item, s: score(e) })).filter((r) => r.s).sort((a, b) => b.s - a.s).slice(0, limit);
  }
};
