// Dark, light, or as the machine has it.

const NAME = 'entropick.theme';
const THEMES = ['auto', 'light', 'dark'];

/** Returns the theme that was chosen. */
export function theme() {
  const held = localStorage.getItem(NAME);
  return THEMES.includes(held) ? held : 'auto';
}

export const nextTheme = () => THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];

/** Chooses a theme. */
export function setTheme(name) {
  localStorage.setItem(NAME, name);
  apply();
}

function apply() {
  const name = theme();
  document.documentElement.style.colorScheme = name === 'auto' ? 'light dark' : name;
}

apply();
