// The texts of the page whose contrast to what is behind them is below 4.5 to 1 (WCAG 2 AA).
const channels = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
const luminance = (colour) => {
  const [red, green, blue] = colour.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = channels(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
  }
  return [255, 255, 255];
};
const faint = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const text = texts.currentNode.textContent.trim();
  const element = texts.currentNode.parentElement;
  if (!text || !element.checkVisibility()) continue;
  const two = [channels(getComputedStyle(element).color).slice(0, 3), behind(element)].map(luminance).sort((a, b) => b - a);
  const contrast = (two[0] + 0.05) / (two[1] + 0.05);
  if (contrast < 4.5) faint.push(`${text}: ${contrast.toFixed(2)}`);
}
return faint;
