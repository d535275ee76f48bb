"""The splat shader, its twin that searches for a pixel's median splat, and the full-screen shaders that use what they sum up.

The splat shader projects anisotropic Gaussians by the equations of 3DGS (Kerbl et al. 2023; EWA splatting, Zwicker et al. 2001)
with the constants of gsplat: 0.3 px dilation, Jacobian limited to 1.3 times the half image, alpha at most 0.999,
contributions under 1/255 dropped.

The dilation belongs to what an avatar looks like in the pictures that it was trained on; drawn larger or smaller it keeps that look
(`engine.raster.conventions.EPS2D` has the formulas).
"""

from __future__ import annotations

import bpy
import gpu

from ...engine.cache import SHARES as VIEWS

EPS2D = 0.3
"""Variance in px^2 added to both axes of a projected Gaussian."""
JACOBIAN_LIMIT = 1.3
"""The Jacobian is taken at most this far from the image centre (in half images), where it is still well behaved."""

SHARES = tuple(f"share_{view}" for view in VIEWS)
"""Quantities of which one is a view's share in the motion, in the order of `Splats.shares`."""

QUANTITIES = ("color", "data", "branch", "object", *SHARES, "coverage")
"""What the splat shader sums up: colour; (depth, aleatoric, epistemic); a colour by branch; a colour by avatar; a view's share
(in x); 1 for each of three avatars that follow each other, from `first_avatar` on."""

SEARCH_WAYS = 5
"""Parts into which one step of the search for the median splat divides what is left of the draw order."""

AVATAR_TEXELS = 6
"""Texels an avatar takes in the table of avatars: three rows of the matrix to camera space; eye; where its data lie; its number and the size of a
trained pixel, in object space and in camera space."""

TEXTURE_WIDTH = 4096
"""Width of the data textures; every GPU that Blender runs on has textures of this width."""

_VIEW_STRUCT = """
struct SplatView {
  mat4 projection;  /* camera space to clip space */
  vec4 image;       /* width, height of the whole image; lower left corner of the part drawn, px */
  vec4 part;        /* width, height of the part drawn, px; quantity; 1 for perspective, 0 for parallel */
  vec4 choice;      /* first of the three avatars whose coverage is summed up */
};
"""

_VERTEX = """
vec4 fetch(sampler2D data, int index) {
  return texelFetch(data, ivec2(index % TEXTURE_WIDTH, index / TEXTURE_WIDTH), 0);
}

/* Four SH coefficients lie in three texels. */
vec3 sh_band(int first, vec4 basis) {
  vec4 a = fetch(static_data, first), b = fetch(static_data, first + 1), c = fetch(static_data, first + 2);
  return basis.x * a.xyz + basis.y * vec3(a.w, b.xy) + basis.z * vec3(b.zw, c.x) + basis.w * c.yzw;
}

vec3 sh_color(int first, int coefficients, vec3 d) {
  if (coefficients == 1) {
    return 0.28209479177387814 * fetch(static_data, first).xyz;
  }
  vec3 color = sh_band(first, vec4(0.28209479177387814, 0.4886025119029199 * vec3(-d.y, d.z, -d.x)));
  if (coefficients >= 9) {
    float xx = d.x * d.x, yy = d.y * d.y, zz = d.z * d.z;
    color += sh_band(first + 3, vec4(1.0925484305920792 * d.x * d.y, -1.0925484305920792 * d.y * d.z,
                                     0.31539156525252005 * (2.0 * zz - xx - yy), -1.0925484305920792 * d.x * d.z));
    float sixth = 0.5462742152960396 * (xx - yy);
    if (coefficients == 9) {
      color += sixth * fetch(static_data, first + 6).xyz;
    }
    else {
      color += sh_band(first + 6, vec4(sixth, -0.5900435899266435 * d.y * (3.0 * xx - yy),
                                       2.890611442640554 * d.x * d.y * d.z, -0.4570457994644658 * d.y * (4.0 * zz - xx - yy)));
      color += sh_band(first + 9, vec4(0.3731763325901154 * d.z * (2.0 * zz - 3.0 * xx - 3.0 * yy),
                                       -0.4570457994644658 * d.x * (4.0 * zz - xx - yy),
                                       1.445305721320277 * d.z * (xx - yy), -0.5900435899266435 * d.x * (xx - 3.0 * yy)));
    }
  }
  return color;
}

vec3 label_color(int label) {
  /* Golden ratio steps in hue: neighbours differ clearly, however many there are. */
  vec3 hue = fract(0.08 + 0.61803398875 * float(label) + vec3(0.0, 2.0, 1.0) / 3.0);
  return mix(vec3(1.0), clamp(abs(hue * 6.0 - 3.0) - 1.0, 0.0, 1.0), 0.7);
}

void main() {
  /* Outside the clip volume: where a splat is not to be seen, all its corners stay here. */
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  splat_conic = vec4(0.0);
  splat_center = vec2(0.0);
  splat_value = vec3(0.0);
  splat_place = float(int(corner) / 4);

  vec2 entry = fetch(order_data, int(corner) / 4).xy;
  int index = int(entry.x), avatar = int(entry.y);
  vec4 m0 = fetch(motion_data, index * 3), m1 = fetch(motion_data, index * 3 + 1), m2 = fetch(motion_data, index * 3 + 2);
  vec3 mean = m0.xyz;
  vec4 quat = vec4(m0.w, m1.xyz);
  vec3 scale = vec3(m1.w, m2.xy);

  /* Rows of the matrix from object space to camera space, the eye in object space, and where the static data lie. */
  int row = avatar * AVATAR_TEXELS;
  vec4 row_x = fetch(avatar_data, row), row_y = fetch(avatar_data, row + 1), row_z = fetch(avatar_data, row + 2);
  vec4 eye = fetch(avatar_data, row + 3), place = fetch(avatar_data, row + 4), more = fetch(avatar_data, row + 5);
  int coefficients = int(place.w);
  int texel = int(place.x) + 65536 * int(place.y) + (index - int(eye.w)) * int(place.z);
  vec4 header = fetch(static_data, texel);
  float opacity = header.x;

  vec3 camera = vec3(dot(row_x.xyz, mean) + row_x.w, dot(row_y.xyz, mean) + row_y.w, dot(row_z.xyz, mean) + row_z.w);
  vec4 clip = view.projection * vec4(camera, 1.0);
  if (!(clip.w > 0.0) || !(opacity >= 1.0 / 255.0)) {
    return;
  }

  /* Columns of: object to camera, times rotation, times scale. The covariance is this matrix times its transpose. */
  float len = length(quat);
  if (!(len > 0.0)) {
    return;
  }
  quat /= len;
  /* How many of the drawn pixels one of the trained pictures covers; nearer than there its blur lies in space. */
  float covers = more.z * sqrt(abs(0.25 * view.image.x * view.image.y * view.projection[0][0] * view.projection[1][1])) / clip.w;
  if (covers > 1.0) {
    scale = sqrt(scale * scale + EPS2D * more.y * more.y * (1.0 - 1.0 / (covers * covers)));
  }
  float w = quat.x, x = quat.y, y = quat.z, z = quat.w;
  mat3 model = transpose(mat3(row_x.xyz, row_y.xyz, row_z.xyz));
  mat3 axes = model * mat3(scale.x * vec3(1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y)),
                           scale.y * vec3(2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x)),
                           scale.z * vec3(2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y)));

  /* Jacobian of the pixel position by the camera space position: exact for any projection, perspective or not. */
  mat4 rows = transpose(view.projection);
  vec2 ndc = clip.xy / clip.w;
  vec2 at = clamp(ndc, -JACOBIAN_LIMIT, JACOBIAN_LIMIT);
  vec3 ax = (0.5 * view.image.x / clip.w) * (rows[0].xyz - at.x * rows[3].xyz) * axes;
  vec3 ay = (0.5 * view.image.y / clip.w) * (rows[1].xyz - at.y * rows[3].xyz) * axes;

  float a0 = dot(ax, ax), c0 = dot(ay, ay), b = dot(ax, ay);
  float a = a0 + EPS2D, c = c0 + EPS2D;
  /* a * c - b * b, written so that thin splats do not cancel it away. */
  vec3 normal = cross(ax, ay);
  float det = dot(normal, normal) + EPS2D * (a0 + c0) + EPS2D * EPS2D;
  if (covers > 0.0 && covers < 1.0) {
    /* Farther than there a pixel's own blur is wider than the trained one, and as much fainter. */
    float trained = EPS2D * covers * covers;
    opacity *= sqrt((dot(normal, normal) + trained * (a0 + c0) + trained * trained) / det);
    if (!(opacity >= 1.0 / 255.0)) {
      return;
    }
  }
  float half_gap = 0.5 * (a - c);
  float large = 0.5 * (a + c) + sqrt(half_gap * half_gap + b * b);
  float small = det / large;
  vec2 major = half_gap >= 0.0 ? vec2(large - c, b) : vec2(b, large - a);
  float major_len = length(major);
  major = major_len > 0.0 ? major / major_len : vec2(1.0, 0.0);

  /* The ellipse on which alpha falls to 1/255, and a little more for the rounding of corners to the pixel raster. */
  float reach = sqrt(2.0 * log(255.0 * opacity));
  vec2 side = vec2((int(corner) & 1) * 2 - 1, (int(corner) & 2) - 1);
  vec2 extent = side * (reach * sqrt(vec2(large, small)) + 0.02);
  vec2 center = (0.5 * ndc + 0.5) * view.image.xy - view.image.zw;
  vec2 pixel = center + extent.x * major + extent.y * vec2(-major.y, major.x);
  gl_Position = vec4(pixel / view.part.xy * 2.0 - 1.0, clip.z / clip.w, 1.0);

  splat_conic = vec4(c / det, -b / det, a / det, opacity);
  splat_center = center;
  int quantity = int(view.part.z);
  if (quantity == 0) {
    vec3 direction = normalize(mean * view.part.w - eye.xyz);
    splat_value = max(0.5 + sh_color(texel + 1, coefficients, direction), 0.0);
  }
  else if (quantity == 1) {
    splat_value = vec3(-camera.z, m2.zw);
  }
  else if (quantity < 4) {
    splat_value = label_color(quantity == 2 ? int(header.y) : avatar);
  }
  else if (quantity < 8) {
    vec4 shares = fetch(share_data, index);
    splat_value.x = quantity == 4 ? shares.x : quantity == 5 ? shares.y : quantity == 6 ? shares.z : shares.w;
  }
  else {
    int which = int(more.x) - int(view.choice.x);
    splat_value = vec3(float(which == 0), float(which == 1), float(which == 2));
  }
}
"""

_ALPHA = """
float splat_alpha() {
  /* The distance is taken from the pixel's centre itself: interpolated over a large quad it would not be exact enough. */
  vec2 d = gl_FragCoord.xy - splat_center;
  float power = -0.5 * (splat_conic.x * d.x * d.x + splat_conic.z * d.y * d.y) - splat_conic.y * d.x * d.y;
  return min(0.999, splat_conic.w * exp(min(power, 0.0)));
}
"""

_FRAGMENT = """
void main() {
  float alpha = splat_alpha();
  if (alpha < 1.0 / 255.0) {
    discard;
  }
  result = vec4(splat_value * alpha, alpha);
}
"""

# Light that a row of splats lets through is a product, so the logarithms of what each lets through may be added in any order.
_SEARCH_FRAGMENT = """
void main() {
  float alpha = splat_alpha();
  if (alpha < 1.0 / 255.0) {
    discard;
  }
  result = -log(1.0 - alpha) * step(search_places(texelFetch(bounds, ivec2(gl_FragCoord.xy), 0).xy), vec4(splat_place));
}
"""

_SEARCH_PLACES = """
vec4 search_places(vec2 within) {
  return within.x + floor((within.y - within.x) * vec4(1.0, 2.0, 3.0, 4.0) / float(SEARCH_WAYS));
}
"""

_NARROW_FRAGMENT = """
void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  vec2 within = texelFetch(bounds, pixel, 0).xy;
  vec4 places = search_places(within), sums = texelFetch(summed, pixel, 0);
  float half_alpha = 0.5 * texelFetch(accumulated, pixel, 0).a;
  for (int i = 0; i < SEARCH_WAYS - 1; i++) {
    if (1.0 - exp(-sums[i]) >= half_alpha) {
      within.x = max(within.x, places[i]);
    }
    else {
      within.y = min(within.y, places[i]);
    }
  }
  result = vec4(within, 0.0, 0.0);
}
"""

_RESOLVE_VERTEX = """
void main() {
  gl_Position = vec4(pos, 0.0, 1.0);
}
"""

_RESOLVE_FRAGMENT = """
vec3 ramp(float t) {
  /* Dark blue, violet, orange, light yellow: even steps in lightness, readable without colour. */
  t = clamp(t, 0.0, 1.0);
  vec3 low = mix(vec3(0.05, 0.03, 0.25), vec3(0.62, 0.16, 0.50), min(t * 2.0, 1.0));
  return mix(low, mix(vec3(0.62, 0.16, 0.50), vec3(0.99, 0.95, 0.55), t * 2.0 - 1.0), step(0.5, t));
}

vec3 srgb_to_linear(vec3 c) {
  return mix(c / 12.92, pow((c + 0.055) / 1.055, vec3(2.4)), step(0.04045, c));
}

void main() {
  vec4 total = texelFetch(accumulated, ivec2(gl_FragCoord.xy - area.xy), 0);
  float alpha = total.a;
  if (alpha <= 0.0) {
    result = vec4(0.0);
    return;
  }
  vec3 color = max(total.rgb / alpha, 0.0);
  if (source >= 3) {
    float value = source == 3 || source > 6 ? color.x : source == 4 ? color.y + color.z : source == 5 ? color.y : color.z;
    color = ramp((value - area.z) / max(area.w - area.z, 1e-12));
  }
  if (target == 1) {
    color = srgb_to_linear(color);
    color = vec3(dot(to_red.xyz, color), dot(to_green.xyz, color), dot(to_blue.xyz, color));
  }
  else if (target == 2) {
    color = pow(min(color, 1.0), vec3(2.2));
  }
  result = vec4(color * alpha, alpha);
}
"""

_shaders: dict[str, gpu.types.GPUShader] = {}


def splat_shader() -> gpu.types.GPUShader:
    """The splat shader. Samplers: order_data (splat, avatar), motion_data, static_data, avatar_data, share_data; uniform block view."""
    if "splat" not in _shaders:
        _shaders["splat"] = gpu.shader.create_from_info(_splat_info(_ALPHA + _FRAGMENT))
    return _shaders["splat"]


def search_shader() -> gpu.types.GPUShader:
    """The splat shader's twin for the search for the median splat, to be blended additively.

    Besides the splat shader's samplers: bounds, of which a pixel holds two places [low, high) in the draw order. Writes, for each of
    the four places between them, -log(1 - alpha) of the splats that come at that place or later, which is before it.
    """
    if "search" not in _shaders:
        info = _splat_info(_SEARCH_PLACES + _ALPHA + _SEARCH_FRAGMENT)
        info.define("SEARCH_WAYS", str(SEARCH_WAYS))
        info.sampler(5, "FLOAT_2D", "bounds")
        _shaders["search"] = gpu.shader.create_from_info(info)
    return _shaders["search"]


def narrow_shader() -> gpu.types.GPUShader:
    """Full-screen pass after `search_shader`: from bounds, what it summed up, and the pixels' alpha (accumulated) the next bounds.

    The median splat stays between them: the first one from the front by which half of the pixel's alpha is reached.
    """
    if "narrow" not in _shaders:
        info = gpu.types.GPUShaderCreateInfo()
        info.define("SEARCH_WAYS", str(SEARCH_WAYS))
        for slot, name in enumerate(("bounds", "summed", "accumulated")):
            info.sampler(slot, "FLOAT_2D", name)
        info.vertex_in(0, "VEC2", "pos")
        info.fragment_out(0, "VEC4", "result")
        info.vertex_source(_RESOLVE_VERTEX)
        info.fragment_source(_SEARCH_PLACES + _NARROW_FRAGMENT)
        _shaders["narrow"] = gpu.shader.create_from_info(info)
    return _shaders["narrow"]


def mesh_shader() -> gpu.types.GPUShader:
    """Draws triangles of positions `pos` by the matrix `to_clip` and no colour: for their depth."""
    if "mesh" not in _shaders:
        info = gpu.types.GPUShaderCreateInfo()
        info.push_constant("MAT4", "to_clip")
        info.vertex_in(0, "VEC3", "pos")
        info.vertex_source("void main() { gl_Position = to_clip * vec4(pos, 1.0); }")
        info.fragment_source("void main() {}")
        _shaders["mesh"] = gpu.shader.create_from_info(info)
    return _shaders["mesh"]


def _splat_info(fragment: str) -> gpu.types.GPUShaderCreateInfo:
    interface = gpu.types.GPUStageInterfaceInfo("ua3dtalk_splat")
    interface.flat("VEC4", "splat_conic")
    interface.flat("VEC2", "splat_center")
    interface.flat("VEC3", "splat_value")
    interface.flat("FLOAT", "splat_place")
    info = gpu.types.GPUShaderCreateInfo()
    info.define("TEXTURE_WIDTH", str(TEXTURE_WIDTH))
    info.define("AVATAR_TEXELS", str(AVATAR_TEXELS))
    info.define("EPS2D", str(EPS2D))
    info.define("JACOBIAN_LIMIT", str(JACOBIAN_LIMIT))
    info.typedef_source(_VIEW_STRUCT)
    info.uniform_buf(0, "SplatView", "view")
    for slot, name in enumerate(("order_data", "motion_data", "static_data", "avatar_data", "share_data")):
        info.sampler(slot, "FLOAT_2D", name)
    info.vertex_in(0, "UINT", "corner")
    info.vertex_out(interface)
    info.fragment_out(0, "VEC4", "result")
    info.vertex_source(_VERTEX)
    info.fragment_source(fragment)
    return info


def resolve_shader() -> gpu.types.GPUShader:
    """Full-screen pass that turns a premultiplied sum into colours.

    source: 0 to 2 the sum is a display-referred colour; 3 to 6 it is (depth, aleatoric, epistemic), of which depth, total,
    aleatoric or epistemic are shown on a ramp between area.z and area.w; 7 and more shows its x so. target: 0 display-referred, 1 scene linear (to_red, to_green,
    to_blue: rows of the matrix from linear Rec.709), 2 Blender's viewport overlay. area.xy: lower left corner of the
    drawn part in the target framebuffer, px. All premultiplied by alpha.

    Target 2 is a pure power of 2.2, not the sRGB curve: Blender merges the overlay with the picture by that power, and
    so the colour comes out on the display as it went in.
    """
    if "resolve" not in _shaders:
        info = gpu.types.GPUShaderCreateInfo()
        info.push_constant("VEC4", "area")
        info.push_constant("VEC4", "to_red")
        info.push_constant("VEC4", "to_green")
        info.push_constant("VEC4", "to_blue")
        info.push_constant("INT", "source")
        info.push_constant("INT", "target")
        info.sampler(0, "FLOAT_2D", "accumulated")
        info.vertex_in(0, "VEC2", "pos")
        info.fragment_out(0, "VEC4", "result")
        info.vertex_source(_RESOLVE_VERTEX)
        info.fragment_source(_RESOLVE_FRAGMENT)
        _shaders["resolve"] = gpu.shader.create_from_info(info)
    return _shaders["resolve"]


def bind(program: gpu.types.GPUShader) -> None:
    """Make a shader the active one, for certain.

    Blender skips the binding where the address is that of the shader it notes as bound. Where renders, with a GPU context of their
    own, have drawn in between, that note can be of a shader that was freed since, and a new one at its address is drawn with the
    freed one's program (seen in 5.0 and 5.2): an empty picture, now and then. A built-in shader, never freed, is bound in between.
    """
    gpu.shader.from_builtin("UNIFORM_COLOR").bind()
    program.bind()


def release() -> None:
    """Free the compiled shaders; they are made again when next asked for.

    In the background they stay: the GPU context that a render brought may be gone, and freeing without one ends Blender 4.5.
    """
    if not bpy.app.background:
        _shaders.clear()
